/**
 * Virtual services as net/netfilter/ipvs/ip_vs_ctl.c keeps them, without packets: what processors have counted is shown
 * once it is summed up, a destination that connections still hold comes back with what it had counted, and everybody may
 * set counters to zero. Speaks the packed form of native/ipvs.cc.
 */

import type { IpvsRefusal, IpvsSocket } from '../../src/dataplane/ipvs/native.ts';
import { IPVS_OP } from '../../src/dataplane/ipvs/packed-ipvs.ts';
import { PackedWriter } from '../../src/dataplane/nft/packed.ts';
import { addressBytes, formatAddress } from '../../src/model/address.ts';
import type { Family } from '../../src/model/records.ts';

/** Connections, packets in and out, bytes in and out. */
type Stats = readonly [number, number, number, number, number];
const NONE: Stats = [0, 0, 0, 0, 0];

class Counter {
  #counted = NONE;
  #summed = NONE;
  #zero = NONE;
  count(stats: Stats): void {
    this.#counted = this.#counted.map((value, i) => value + stats[i]!) as unknown as Stats;
  }
  sumUp(): void {
    this.#summed = this.#counted;
  }
  zero(): void {
    this.#zero = this.#summed;
  }
  get shown(): Stats {
    return this.#summed.map((value, i) => value - this.#zero[i]!) as unknown as Stats;
  }
}

interface FakeDestination {
  readonly address: string;
  readonly port: number;
  weight: number;
  held: boolean;
  readonly counter: Counter;
}
interface FakeService {
  readonly family: Family;
  readonly mark: number;
  readonly destinations: Map<string, FakeDestination>;
  /** Destinations that were taken away and are held. */
  readonly trash: Map<string, FakeDestination>;
  readonly counter: Counter;
}

export class FakeIpvs implements IpvsSocket {
  readonly services = new Map<string, FakeService>();
  /** Virtual services that were shown. */
  shown = 0;
  /** What is shown arrives after this. */
  late: Promise<void> = Promise.resolve();

  /** One connection by a destination: one packet and 100 bytes in, two and 300 out. */
  connect(service: string, destination: string, held: 'held' | 'ended' = 'ended'): void {
    const { counter, destinations } = this.services.get(service)!;
    const to = destinations.get(destination)!;
    to.held ||= held === 'held';
    for (const one of [counter, to.counter]) one.count([1, 1, 2, 100, 300]);
  }

  /** What the kernel does every two seconds. */
  sumUp(): void {
    for (const { counter, destinations } of this.services.values())
      for (const one of [counter, ...[...destinations.values()].map((to) => to.counter)]) one.sumUp();
  }

  /** `ipvsadm -Z`. */
  zero(): void {
    for (const { counter, destinations } of this.services.values())
      for (const one of [counter, ...[...destinations.values()].map((to) => to.counter)]) one.zero();
  }

  async commit(operations: Buffer): Promise<readonly IpvsRefusal[]> {
    const refusals: IpvsRefusal[] = [];
    let at = 0;
    const u8 = () => operations[at++]!;
    const u32 = () => {
      at += 4;
      return operations.readUInt32LE(at - 4);
    };
    for (let index = 0; at < operations.length; index++) {
      const op = u8();
      const family = u8() as Family;
      const mark = u32();
      const service = { family, mark, op };
      let errno: string;
      if (op <= IPVS_OP.delService) {
        if (op !== IPVS_OP.delService) {
          at += 1 + operations[at]!;
          u32();
          u32();
        }
        errno = this.#service(service);
      } else {
        const size = family === 4 ? 4 : 16;
        const address = formatAddress(operations.subarray(at, at + size));
        at += size;
        const port = u32();
        errno = this.#destination(service, {
          address,
          port,
          weight: op === IPVS_OP.delDestination ? 0 : u32(),
        });
      }
      if (errno !== '') refusals.push({ index, errno });
    }
    return refusals;
  }

  #service({ family, mark, op }: { family: Family; mark: number; op: number }): string {
    const key = `${family} ${mark}`;
    const there = this.services.has(key);
    if (op === IPVS_OP.newService && there) return 'EEXIST';
    if (op !== IPVS_OP.newService && !there) return 'ESRCH';
    if (op === IPVS_OP.delService) this.services.delete(key);
    if (op === IPVS_OP.newService)
      this.services.set(key, {
        family,
        mark,
        destinations: new Map(),
        trash: new Map(),
        counter: new Counter(),
      });
    return '';
  }

  #destination(
    { family, mark, op }: { family: Family; mark: number; op: number },
    to: { readonly address: string; readonly port: number; readonly weight: number },
  ): string {
    const service = this.services.get(`${family} ${mark}`);
    if (!service) return 'ESRCH';
    const key = `${to.address} ${to.port}`;
    const known = service.destinations.get(key);
    if (op === IPVS_OP.newDestination) {
      if (known) return 'EEXIST';
      const back = service.trash.get(key);
      service.trash.delete(key);
      service.destinations.set(key, back ?? { ...to, held: false, counter: new Counter() });
      return '';
    }
    if (!known) return 'ENOENT';
    known.weight = to.weight;
    if (op === IPVS_OP.delDestination) {
      service.destinations.delete(key);
      if (known.held) service.trash.set(key, known);
    }
    return '';
  }

  async dump(names?: Buffer): Promise<Buffer> {
    const out = new PackedWriter();
    const u64s = (stats: Stats) => {
      for (const value of stats) {
        out.u32(value);
        out.u32(0);
      }
    };
    for (const { family, mark, destinations, counter } of this.#asked(names)) {
      this.shown++;
      for (const value of [1, family]) out.u8(value);
      out.u32(mark);
      out.u8(2);
      out.raw(Buffer.from('rr'));
      for (const value of [0, 0]) out.u32(value);
      u64s(counter.shown);
      for (const to of destinations.values()) {
        out.u8(2);
        out.raw(addressBytes(to.address as never));
        for (const value of [to.port, to.weight, to.held ? 1 : 0, 0]) out.u32(value);
        u64s(to.counter.shown);
      }
    }
    await this.late;
    return Buffer.from(out.take());
  }

  #asked(names: Buffer | undefined): FakeService[] {
    if (!names) return [...this.services.values()];
    const asked: FakeService[] = [];
    for (let at = 0; at < names.length; at += 5) {
      const service = this.services.get(`${names[at]} ${names.readUInt32LE(at + 1)}`);
      if (service) asked.push(service);
    }
    return asked;
  }

  timeouts(): [number, number, number] {
    return [900, 120, 300];
  }
  setTimeouts(): void {}
  close(): void {}
}
