/** Where the ebpf mode attaches: devices at tc, cgroups, and the drivers of the uplinks for XDP. */
import { mkdirSync, rmdirSync } from 'node:fs';
import path from 'node:path';
import {
  ATTACH_TCX_EGRESS,
  ATTACH_TCX_INGRESS,
  ATTACH_XDP,
  SOCK_PROGRAMS,
  XDP_GENERIC,
} from '../dataplane/ebpf/attach-types.ts';
import { bpfNative } from '../dataplane/ebpf/native.ts';
import { readKernelFacts } from '../node/kernel.ts';
import { readDefaultRoutes, readLinks } from '../node/rtnetlink.ts';
import { ebpfNeed, PROGRAMS, withProgram } from './ebpf-kernel.ts';
import { probeNative } from './native.ts';
import type { ProbeRow } from './report.ts';
import { attempt, orUntried, Untried } from './trial.ts';

/** Of the loopback device, which every network namespace has. */
const LOOPBACK = 1;
const FILTER = { priority: 0x7470, handle: 1 } as const;
/** NETDEV_XDP_ACT_BASIC of linux/netdev.h. */
const XDP_BASIC = 1;
const RTN_UNICAST = 1;

function tryLink(type: number, attachType: number, flags: number, netns: string): void {
  withProgram(type, 0, (program) =>
    bpfNative().bpfClose(bpfNative().bpfLinkDevice(program, LOOPBACK, attachType, flags, netns)),
  );
}

function tryTcx(netns: string): void {
  tryLink(PROGRAMS.tc, ATTACH_TCX_INGRESS, 0, netns);
  tryLink(PROGRAMS.tc, ATTACH_TCX_EGRESS, 0, netns);
}

function tryClsact(netns: string): void {
  const { bpfClsactAttach, bpfClsactDetach } = bpfNative();
  withProgram(PROGRAMS.tc, 0, (program) => {
    for (const point of [1, 2]) {
      bpfClsactAttach(program, LOOPBACK, point, FILTER.priority, FILTER.handle, netns);
      bpfClsactDetach(0, LOOPBACK, point, FILTER.priority, FILTER.handle, netns);
    }
  });
}

/** Attaches to a cgroup that nobody is in. */
function tryCgroup(): void {
  const { cgroup2 } = readKernelFacts();
  if (cgroup2 === null) throw new Error('cgroup v2 is not mounted');
  const folder = path.join(cgroup2, `triplane-probe-${process.pid}`);
  orUntried(() => mkdirSync(folder));
  const refused: string[] = [];
  try {
    for (const [name, attachType] of Object.entries(SOCK_PROGRAMS)) {
      try {
        withProgram(PROGRAMS.socket, attachType, (program) =>
          bpfNative().bpfClose(bpfNative().bpfLinkCgroup(program, folder, attachType)),
        );
      } catch (error) {
        if ((error as { code?: string }).code === 'EPERM') throw error;
        refused.push(name.slice('tp_'.length));
      }
    }
  } finally {
    rmdirSync(folder);
  }
  if (refused.length > 0) throw new Error(`not here: ${refused.join(' ')}`);
}

/** @param netns of a namespace in which anything may be attached */
export function probePlaces(netns: string): Promise<ProbeRow>[] {
  return [
    attempt(
      ebpfNeed('a place at tc', 'required', 'a kernel with tcx, or with CONFIG_NET_SCH_INGRESS'),
      () => {
        try {
          tryTcx(netns);
        } catch {
          tryClsact(netns);
        }
      },
    ),
    attempt(
      ebpfNeed('tcx', 'better', 'filters in a clsact qdisc serve as well (Linux 6.6 has tcx)', 'tcx'),
      () => tryTcx(netns),
    ),
    attempt(
      ebpfNeed('hooks of a cgroup', 'better', 'sockets are served packet by packet', 'socket'),
      tryCgroup,
    ),
    attempt(ebpfNeed('generic XDP', 'better', 'nothing: uplinks are served at tc', 'xdp'), () =>
      tryLink(PROGRAMS.xdp, ATTACH_XDP, XDP_GENERIC, netns),
    ),
  ];
}

/**
 * Drivers are asked, and not tried: attaching a program makes many of them take their link down for a moment.
 */
function askDriver(ifindex: number): void {
  let features: number;
  try {
    features = probeNative().xdpFeatures('', ifindex);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOENT') throw error;
    throw new Untried('this kernel does not tell before it is tried, which the agent does when it starts');
  }
  if ((features & XDP_BASIC) === 0) throw new Error('its driver takes no XDP programs');
}

/** One row for each device of a default route. Needs no privilege. */
export async function probeUplinks(): Promise<Promise<ProbeRow>[]> {
  const routes = (await readDefaultRoutes('')).filter(({ type }) => type === RTN_UNICAST);
  const uplinks = new Set(routes.map(({ linkIndex }) => linkIndex));
  return readLinks('')
    .filter(({ index }) => uplinks.has(index))
    .map(({ index, name }) =>
      attempt(ebpfNeed(`XDP in the driver of ${name}`, 'better', `${name} is served at tc`, 'xdp'), () =>
        askDriver(index),
      ),
    );
}
