/** The kernel's own settings of IPVS, one network namespace's. */
import type { TrafficSettings } from '../traffic.ts';
import type { IpvsSocket } from './native.ts';
import { ipvsNative } from './native.ts';

/** What may change while it runs. */
export interface IpvsSettings {
  /** Of services that name none by annotation. */
  readonly scheduler?: string;
  /** 'strict': never answer ARP for service addresses. */
  readonly arp?: 'strict' | 'as-it-is';
  /** 0: leave it as it is. */
  readonly tcpMs?: number;
  readonly tcpFinMs?: number;
  readonly udpMs?: number;
}

export interface IpvsOptions extends IpvsSettings {
  /** Path of the network namespace; '': the current one. */
  readonly netns?: string;
  /** Called when somebody else changed a table of ours. */
  readonly onForeignChange?: () => void;
  /** Kinds of links for the device, best first; none: local routes. Default: what a node may have. */
  readonly deviceKinds?: readonly string[];
  /** How long connections of a backend that left may go on. */
  readonly graceMs?: number;
  readonly traffic?: TrafficSettings;
}

/** Documentation/networking/ipvs-sysctl.rst; below /proc/sys/net/ipv4/vs. */
const SETTINGS: readonly (readonly [name: string, value: string])[] = [
  // Masquerading is conntrack's work.
  ['conntrack', '1'],
  // A client that uses a port again gets a backend of now, not the one that leaves; without a second's delay,
  // since such a packet starts a new entry of conntrack, too (Linux 5.9).
  ['conn_reuse_mode', '1'],
  // A UDP flow whose backend is gone goes on to another one with its next packet.
  ['expire_nodest_conn', '1'],
  // A client is not held to a backend that leaves.
  ['expire_quiescent_template', '1'],
  // A connection from before us is picked up in its middle, as conntrack does (nf_conntrack_tcp_loose).
  ['sloppy_tcp', '1'],
  ['sloppy_sctp', '1'],
];
/** Without it the kernel shows no counter's sum (Linux 5.16; before, it always makes them). */
const SUMS = ['ipv4/vs/run_estimation', '1'] as const;
const STRICT_ARP = [
  ['ipv4/conf/all/arp_ignore', '1'],
  ['ipv4/conf/all/arp_announce', '2'],
] as const;
const SECOND_MS = 1000;

/** Returns what could not be set, one line each. */
export function applyIpvsSettings(socket: IpvsSocket, options: IpvsOptions): string[] {
  const { netnsSysctl } = ipvsNative();
  const wanted: (readonly [name: string, value: string])[] = [
    ...SETTINGS.map(([name, value]) => [`ipv4/vs/${name}`, value] as const),
    ...(options.arp === 'strict' ? STRICT_ARP : []),
  ];
  const counts = (options.traffic?.level ?? 'off') !== 'off';
  if (counts && netnsSysctl(options.netns ?? '', SUMS[0]) !== null) wanted.push(SUMS);
  const problems: string[] = [];
  for (const [name, value] of wanted) {
    if (netnsSysctl(options.netns ?? '', name) === value) continue;
    if (netnsSysctl(options.netns ?? '', name, value) === null)
      problems.push(`net.${name.replaceAll('/', '.')} could not be set to ${value}`);
  }
  const seconds = (ms: number | undefined) => Math.ceil((ms ?? 0) / SECOND_MS);
  const timeouts = [seconds(options.tcpMs), seconds(options.tcpFinMs), seconds(options.udpMs)] as const;
  if (timeouts.some((value) => value > 0)) socket.setTimeouts(...timeouts);
  return problems;
}
