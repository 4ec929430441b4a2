/**
 * What is attached: a pinned link for each row of the attach table and each device or cgroup. A link that a
 * predecessor pinned gets the new program in one step (BPF_LINK_UPDATE), so there is no packet without one.
 */
import { existsSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import { isSwitchedOff } from '../../node/switches.ts';
import { ATTACHMENTS, type Attachment, type DeviceSet } from './attach-table.ts';
import {
  ATTACH_TCX_EGRESS,
  ATTACH_TCX_INGRESS,
  ATTACH_XDP,
  XDP_GENERIC,
  XDP_NATIVE,
} from './attach-types.ts';
import type { DeviceRole } from './device-roles.ts';
import { bpfNative } from './native.ts';
import { lifeNative } from './native-life.ts';
import type { Generation } from './pins.ts';
import { xdpCost } from './xdp-cost.ts';

/** XDP_ATTACHED_SKB of <linux/if_link.h>: behind the driver. */
const XDP_ATTACHED_SKB = 2;
const XDP_FLAGS = { generic: XDP_GENERIC, native: XDP_NATIVE } as const;
/** Of our clsact filters: before those of most others, and easily found. */
const CLSACT = { priority: 0x7470, handle: 1, points: { ingress: 1, egress: 2 } } as const;

/**
 * 'native' is tried first unless 'generic' is asked for; where it fails: 'native' leaves that device to tc. 'auto' is 'native', and
 * leaves to tc as well where XDP would cost others more than it gains.
 */
export type XdpMode = 'auto' | 'native' | 'native-or-generic' | 'generic' | 'off';

export interface AttachOptions {
  readonly xdp: XdpMode;
  /** '' : no socket programs. */
  readonly cgroup: string;
  /** Path of the network namespace; '': the current one. */
  readonly netns: string;
  /** Generations whose connections still go on: their XDP links, of which a device has but one, become ours. */
  readonly older: readonly Generation[];
}

interface Wanted {
  readonly name: string;
  readonly row: Attachment;
  readonly ifindex: number;
}

interface Held {
  readonly wanted: Wanted;
  /** -1: a clsact filter. */
  readonly link: number;
  readonly how: 'tcx' | 'clsact' | 'native' | 'generic' | 'cgroup';
}

export class Links {
  readonly #generation: Generation;
  readonly #programs: Readonly<Record<string, number>>;
  readonly #options: AttachOptions;
  readonly #held = new Map<string, Held>();
  readonly #rows: readonly Attachment[];
  readonly problems = new Map<string, string>();
  /** Why devices are left to tc that XDP could stand on, by their index. */
  readonly spared = new Map<number, string>();
  #tcx: 'yes' | 'no' | 'unknown' = isSwitchedOff('tcx') ? 'no' : 'unknown';

  constructor(generation: Generation, programs: Readonly<Record<string, number>>, options: AttachOptions) {
    this.#generation = generation;
    this.#programs = programs;
    this.#options = options;
    this.#rows = ATTACHMENTS.filter(({ program, hook }) => {
      if (programs[program] === undefined) return false;
      if (hook === 'cgroup') return options.cgroup !== '';
      return hook !== 'xdp' || options.xdp !== 'off';
    });
  }

  /** How each link or filter is attached. */
  held(): { readonly hook: Attachment['hook']; readonly ifindex: number; readonly how: Held['how'] }[] {
    return Array.from(this.#held.values(), ({ wanted, how }) => {
      return { hook: wanted.row.hook, ifindex: wanted.ifindex, how };
    });
  }

  /** How each device's XDP program is attached: 'native' or 'generic'. */
  xdpModes(): Map<number, 'native' | 'generic'> {
    const modes = new Map<number, 'native' | 'generic'>();
    for (const { wanted, how } of this.#held.values())
      if (how === 'native' || how === 'generic') modes.set(wanted.ifindex, how);
    return modes;
  }

  /** Devices with filters that have no pin. */
  clsactDevices(): number[] {
    const held = [...this.#held.values()].filter(({ how }) => how === 'clsact');
    return [...new Set(held.map(({ wanted }) => wanted.ifindex))];
  }

  #wanted(devices: ReadonlyMap<number, DeviceRole>): Map<string, Wanted> {
    const wanted = new Map<string, Wanted>();
    this.spared.clear();
    for (const row of this.#rows) {
      if (row.hook === 'cgroup') {
        wanted.set(row.program, { name: row.program, row, ifindex: 0 });
        continue;
      }
      for (const [ifindex, role] of devices) {
        if (!isFor(row.on, role)) continue;
        const cost = row.hook === 'xdp' && this.#options.xdp === 'auto' ? xdpCost(role) : '';
        if (cost !== '') {
          this.spared.set(ifindex, cost);
          continue;
        }
        const name = `${row.hook}_${ifindex}`;
        wanted.set(name, { name, row, ifindex });
      }
    }
    return wanted;
  }

  /** Attaches what is missing and takes away what is not wanted. Returns how many links were made, updated or cut. */
  follow(devices: ReadonlyMap<number, DeviceRole>): number {
    const wanted = this.#wanted(devices);
    let changes = 0;
    for (const [name, held] of this.#held) {
      if (wanted.has(name)) continue;
      this.#cut(held, devices);
      changes++;
    }
    for (const name of this.#problemsGone(wanted)) this.problems.delete(name);
    for (const name of this.#generation.linkNames()) if (!wanted.has(name)) this.#unpin(name);
    for (const one of wanted.values()) {
      if (this.#held.has(one.name)) continue;
      changes += this.#attach(one);
    }
    return changes;
  }

  #problemsGone(wanted: ReadonlyMap<string, Wanted>): string[] {
    return [...this.problems.keys()].filter((name) => !wanted.has(name));
  }

  #attach(wanted: Wanted): number {
    try {
      // Before making, which may have something to say.
      this.problems.delete(wanted.name);
      this.#held.set(wanted.name, this.#adopt(wanted) ?? this.#inherit(wanted) ?? this.#make(wanted));
      return 1;
    } catch (error) {
      // A device that went in the meantime is none of our trouble.
      if ((error as { code?: string }).code !== 'ENODEV')
        this.problems.set(wanted.name, (error as Error).message);
      return 0;
    }
  }

  #pin(name: string): string {
    return path.join(this.#generation.links, name);
  }

  #unpin(name: string): void {
    if (existsSync(this.#pin(name))) unlinkSync(this.#pin(name));
  }

  /** The link that a predecessor pinned, with our program; null: there is none, or its device is another one now. */
  #adopt(wanted: Wanted): Held | null {
    const link = bpfNative().bpfGet(this.#pin(wanted.name));
    if (link < 0) return null;
    try {
      const { ifindex } = lifeNative().bpfLinkInfo(link);
      if (ifindex !== wanted.ifindex) throw new Error('the device of this link is gone');
      bpfNative().bpfLinkUpdate(link, this.#programs[wanted.row.program]!);
      return { wanted, link, how: this.#howAdopted(wanted) };
    } catch {
      bpfNative().bpfClose(link);
      this.#unpin(wanted.name);
      return null;
    }
  }

  /** How a link that is there already stands; of XDP only the device tells. */
  #howAdopted({ row, ifindex }: Wanted): Held['how'] {
    if (row.hook === 'cgroup') return 'cgroup';
    if (row.hook !== 'xdp') return 'tcx';
    return bpfNative().bpfXdpMode(ifindex, this.#options.netns) === XDP_ATTACHED_SKB ? 'generic' : 'native';
  }

  /** The XDP link of an older generation. */
  #inherit(wanted: Wanted): Held | null {
    if (wanted.row.hook !== 'xdp') return null;
    for (const { links } of this.#options.older) {
      const old = path.join(links, wanted.name);
      if (!existsSync(old)) continue;
      const link = bpfNative().bpfGet(old);
      bpfNative().bpfPin(link, this.#pin(wanted.name));
      unlinkSync(old);
      bpfNative().bpfClose(link);
      return this.#adopt(wanted);
    }
    return null;
  }

  #make(wanted: Wanted): Held {
    const { row } = wanted;
    if (row.hook === 'cgroup') {
      const program = this.#programs[row.program]!;
      const link = bpfNative().bpfLinkCgroup(program, this.#options.cgroup, row.attachType);
      return this.#keep(wanted, link, 'cgroup');
    }
    return row.hook === 'xdp' ? this.#makeXdp(wanted) : this.#makeTc(wanted, row.hook);
  }

  #keep(wanted: Wanted, link: number, how: Held['how']): Held {
    this.#pinOrSay(wanted.name, link);
    return { wanted, link, how };
  }

  /** A link without a pin serves as well, as long as this process lives; pinning is tried again at each repair(). */
  #pinOrSay(name: string, link: number): void {
    try {
      bpfNative().bpfPin(link, this.#pin(name));
      this.problems.delete(name);
    } catch (error) {
      this.problems.set(
        name,
        `attached until the agent ends: it cannot be pinned (${(error as Error).message})`,
      );
    }
  }

  #makeXdp(wanted: Wanted): Held {
    const program = this.#programs[wanted.row.program]!;
    const { xdp, netns } = this.#options;
    const attach = (how: 'native' | 'generic') =>
      this.#keep(
        wanted,
        bpfNative().bpfLinkDevice(program, wanted.ifindex, ATTACH_XDP, XDP_FLAGS[how], netns),
        how,
      );
    if (xdp === 'generic') return attach('generic');
    try {
      return attach('native');
    } catch (error) {
      if (xdp !== 'native-or-generic') throw error;
      return attach('generic');
    }
  }

  #makeTc(wanted: Wanted, hook: 'ingress' | 'egress'): Held {
    const program = this.#programs[wanted.row.program]!;
    const { netns } = this.#options;
    if (this.#tcx !== 'no') {
      const type = hook === 'ingress' ? ATTACH_TCX_INGRESS : ATTACH_TCX_EGRESS;
      try {
        const link = bpfNative().bpfLinkDevice(program, wanted.ifindex, type, 0, netns);
        this.#tcx = 'yes';
        return this.#keep(wanted, link, 'tcx');
      } catch (error) {
        // A kernel without tcx (before 6.6) does not know the attach type.
        if (this.#tcx === 'yes' || (error as { code?: string }).code !== 'EINVAL') throw error;
        this.#tcx = 'no';
      }
    }
    const point = CLSACT.points[hook];
    bpfNative().bpfClsactAttach(program, wanted.ifindex, point, CLSACT.priority, CLSACT.handle, netns);
    return { wanted, link: -1, how: 'clsact' };
  }

  #cut({ wanted, link, how }: Held, devices: ReadonlyMap<number, DeviceRole>): void {
    this.#held.delete(wanted.name);
    if (link >= 0) {
      this.#unpin(wanted.name);
      bpfNative().bpfClose(link);
    } else if (how === 'clsact' && devices.has(wanted.ifindex) && wanted.row.hook !== 'cgroup') {
      detachClsact(wanted.ifindex, this.#options.netns);
    }
  }

  /** Makes anew what somebody has detached, replaced or unpinned. Says what, one line each. */
  repair(): string[] {
    const repaired: string[] = [];
    for (const [name, held] of this.#held) {
      if (held.link < 0) {
        // Replacing a filter by itself is all that tells whether it is there, and does no harm.
        this.#attach(held.wanted);
        continue;
      }
      const what = this.#broken(held);
      if (what === null) continue;
      this.#held.delete(name);
      bpfNative().bpfClose(held.link);
      this.#unpin(name);
      this.#attach(held.wanted);
      repaired.push(`${name}: ${what}`);
    }
    return repaired;
  }

  #broken({ wanted, link }: Held): string | null {
    const info = lifeNative().bpfLinkInfo(link);
    const detached = wanted.row.hook === 'cgroup' ? info.cgroup === 0 : info.ifindex !== wanted.ifindex;
    if (detached) return 'was detached';
    if (info.program !== lifeNative().bpfProgramId(this.#programs[wanted.row.program]!))
      return 'had another program';
    if (existsSync(this.#pin(wanted.name))) return null;
    // Still attached: only the pin is gone.
    this.#pinOrSay(wanted.name, link);
    return null;
  }

  /** Lets go of all descriptors; pins keep everything in place. */
  close(): void {
    for (const { link } of this.#held.values()) if (link >= 0) bpfNative().bpfClose(link);
    this.#held.clear();
  }
}

function isFor(on: DeviceSet, { attach, uplink, loopback }: DeviceRole): boolean {
  if (loopback) return on === 'all-and-loopback';
  return attach && (on !== 'uplinks' || uplink);
}

/** Takes our filters away from a device; the qdisc too, if nothing else is in it. */
export function detachClsact(ifindex: number, netns: string): boolean {
  let found = false;
  for (const point of Object.values(CLSACT.points)) {
    try {
      found = bpfNative().bpfClsactDetach(0, ifindex, point, CLSACT.priority, CLSACT.handle, netns) || found;
    } catch {
      // The device is gone, and everything with it.
    }
  }
  return found;
}
