/**
 * The cluster of test/model/world.ts as routed namespaces and a single process that holds all sockets: what
 * node-world.ts is for one row after the other, this is for tens of thousands of flows.
 *
 *   pod, L1, L4 (a veth each, as Calico does it) -- node -- eth0 -- fabric -- remote-pod, R2, R3, R9, outside, other
 *
 * The fabric hands everything to the node, also what goes from one of its hosts to another; whatever nobody has
 * the address of is answered by `nobody`, who so tells what the node let pass.
 */
import { existsSync, mkdirSync, readdirSync, rmdirSync } from 'node:fs';
import path from 'node:path';
import { cgroupMount } from '../../src/lab/cgroups.ts';
import { netnsPath } from '../../src/lab/paths.ts';
import { applyBatch, applySettings, createNamespaces, runProgram } from '../../src/lab/run.ts';
import { removeNamespaces } from '../../src/lab/teardown.ts';
import { FlowEngine, type FlowOutcome, type FlowSpec } from './flow-engine.ts';

export const PODS = {
  pod: ['10.10.1.99', 'fd00:10:10:1::99'],
  L1: ['10.10.1.1', 'fd00:10:10:1::1'],
  L4: ['10.10.1.4', 'fd00:10:10:1::4'],
} as const;
export const REMOTE = {
  'remote-pod': ['10.10.2.99', 'fd00:10:10:2::99'],
  R2: ['10.10.2.2', 'fd00:10:10:2::2'],
  R3: ['10.10.2.3', 'fd00:10:10:2::3'],
  R9: ['10.10.2.9', 'fd00:10:10:2::9'],
  outside: ['198.51.100.7', '2001:db8:f::7'],
  other: ['203.0.113.7', '2001:db8:e::7'],
} as const;
export type HostName = keyof typeof PODS | keyof typeof REMOTE | 'node';
/** The first of each family stays; the others come and go (FlowWorld.own). */
export const NODE = ['192.0.2.11', '2001:db8::11', '192.0.2.111', '2001:db8::111'] as const;
const FABRIC = ['192.0.2.1', '2001:db8::1'] as const;
const GATEWAY_MAC = 'ee:ee:ee:ee:ee:ee';
/** Every neighbour is known from the start: a lost first packet is then a finding. */
const MAC = {
  node: '02:00:00:00:01:00',
  fabric: '02:00:00:00:01:01',
  pod: (at: number) => `02:00:00:00:02:0${at}`,
  host: (at: number) => `02:00:00:00:03:0${at}`,
};
const NOBODY = ['192.0.2.9', '2001:db8::9'] as const;
const EVERYTHING_ELSE = [
  ...['198.18.0.0/15', '203.0.113.8/29', '10.200.0.0/15'],
  ...['2001:db8:9::/48', '2001:db8:18::/48', 'fd00:10:200::/48'],
];
/** Whoever has no place of its own in the cluster; `heir` has what the node has lost, and cannot answer to it otherwise. */
const STRANGERS = { nobody: NOBODY, heir: NODE.slice(2) } as const;

/** Where backends listen, where the node does, and where `nobody` answers. */
export const BACKEND_PORTS = [80, 443, 8080] as const;
export const NODE_PORTS = [80, 81, 9000, 30000, 30001, 30002] as const;

export interface HostFlow extends Omit<FlowSpec, 'ns' | 'sport'> {
  readonly from: HostName;
  /** 'socket': the client lives in the cgroup that socket programs are attached to. */
  readonly via: 'packet' | 'socket';
  /** Default: one that has not been used for long. */
  readonly sport?: number;
  /** From the client port of a flow before it in the same run, if one has the same source and another destination. */
  readonly twin?: boolean;
}

let worlds = 0;
/** Client ports come round after so many flows of a host: long after conntrack has forgotten them. */
const FIRST_PORT = 10_000;
const LAST_PORT = 29_000;

export class FlowWorld {
  readonly #prefix = `tpf${process.pid}-${worlds++}`;
  readonly #engines: FlowEngine[] = [];
  readonly #ports = new Map<string, number>();
  #own: readonly string[] = NODE;
  readonly #removeAtExit = () => this.#removeThings();
  /** Folder of cgroup v2 for what is to meet socket programs; null without cgroup v2. */
  readonly cgroup: string | null;

  private constructor(cgroup: 'cgroup' | 'none') {
    const mount = cgroup === 'cgroup' ? cgroupMount() : null;
    this.cgroup = mount === null ? null : path.join(mount, this.#prefix);
  }

  static async create(cgroup: 'cgroup' | 'none'): Promise<FlowWorld> {
    removeLeftovers();
    const world = new FlowWorld(cgroup);
    process.on('exit', world.#removeAtExit);
    try {
      await world.#build();
    } catch (error) {
      await world.remove();
      throw error;
    }
    return world;
  }

  #name(place: string): string {
    return `${this.#prefix}-${place}`;
  }

  file(place: HostName | keyof typeof STRANGERS): string {
    return netnsPath(this.#name(place));
  }

  #places(): string[] {
    return ['node', 'fabric', ...Object.keys(STRANGERS), ...Object.keys(PODS), ...Object.keys(REMOTE)];
  }

  async #build(): Promise<void> {
    if (this.cgroup !== null) mkdirSync(this.cgroup);
    const names = this.#places();
    await createNamespaces(names.map((name) => this.#name(name)));
    await applySettings(names.flatMap((name) => settings(netnsPath(this.#name(name)))));
    await this.#wire('node', this.#nodeLines());
    await this.#wire('fabric', this.#fabricLines());
    for (const family of ['-4', '-6']) await this.#fabricRules(family);
    const hosts = [
      ...Object.entries({ ...PODS, ...REMOTE }).map(([name, own]) => [name, hostLines(own)] as const),
      ['heir', hostLines(STRANGERS.heir)] as const,
      [
        'nobody',
        [...hostLines(NOBODY), ...EVERYTHING_ELSE.map((range) => `route add local ${range} dev lo`)],
      ] as const,
    ];
    await Promise.all(hosts.map(([name, lines]) => this.#wire(name, lines)));
    this.#engines.push(new FlowEngine(null));
    if (this.cgroup !== null) this.#engines.push(new FlowEngine(this.cgroup));
    const backends = ['L1', 'L4', 'R2', 'R3', 'R9'] as const;
    await this.#engines[0]!.serve([
      ...backends.flatMap((name) => BACKEND_PORTS.map((port) => ({ ns: this.file(name), port }))),
      ...(['node', 'nobody', 'heir'] as const).flatMap((name) =>
        NODE_PORTS.map((port) => ({ ns: this.file(name), port })),
      ),
    ]);
  }

  async #wire(place: string, lines: readonly string[]): Promise<void> {
    await applyBatch({ namespace: this.#name(place), lines });
  }

  #nodeLines(): string[] {
    const peer = `peer name node0 address ${MAC.fabric} netns ${this.#name('fabric')}`;
    const lines = ['link set lo up', `link add eth0 address ${MAC.node} type veth ${peer}`];
    for (const own of NODE) lines.push(address(own, own.includes(':') ? 64 : 24, 'eth0'));
    lines.push('link set eth0 up', ...FABRIC.map((via) => `route add default via ${via}`));
    for (const ip of [...FABRIC, ...NODE.slice(2)]) lines.push(neighbour(ip, MAC.fabric, 'eth0'));
    Object.entries(PODS).forEach(([name, own], at) => {
      const podEnd = `peer name eth0 address ${MAC.pod(at)} netns ${this.#name(name)}`;
      lines.push(`link add veth${at} address ${GATEWAY_MAC} type veth ${podEnd}`);
      lines.push(`link set veth${at} up`, address('fe80::1', 64, `veth${at}`));
      own.forEach((ip, family) => {
        lines.push(`route add ${ip}/${family === 0 ? 32 : 128} dev veth${at} src ${NODE[family]}`);
        lines.push(neighbour(ip, MAC.pod(at), `veth${at}`));
      });
    });
    return lines;
  }

  #fabricLines(): string[] {
    const lines = ['link set lo up', 'link set node0 up'];
    lines.push(address(FABRIC[0], 24, 'node0'), address(FABRIC[1], 64, 'node0'));
    for (const [at, [name, own]] of Object.entries({ ...REMOTE, ...STRANGERS }).entries()) {
      const hostEnd = `peer name eth0 address ${MAC.host(at)} netns ${this.#name(name)}`;
      lines.push(`link add h${at} address ${GATEWAY_MAC} type veth ${hostEnd}`);
      lines.push(`link set h${at} up`, address('fe80::1', 64, `h${at}`));
      for (const ip of own)
        lines.push(
          `route add ${ip}/${ip.includes(':') ? 128 : 32} dev h${at}`,
          neighbour(ip, MAC.host(at), `h${at}`),
        );
    }
    for (const via of NOBODY) lines.push(`route add default via ${via}`);
    for (const via of NODE.slice(0, 2)) lines.push(`route add default via ${via} table 100`);
    for (const ip of NODE.slice(0, 2)) lines.push(neighbour(ip, MAC.node, 'node0'));
    return lines;
  }

  /** What comes from a host goes to the node. A batch of `ip` knows rules of one family only. */
  async #fabricRules(family: string): Promise<void> {
    const lines = Object.keys({ ...REMOTE, ...STRANGERS }).map((_, at) => `rule add iif h${at} lookup 100\n`);
    const args = [family, '-n', this.#name('fabric'), '-batch', '-'];
    const { status, stderr } = await runProgram('ip', args, lines.join(''));
    if (status !== 0) throw new Error(stderr);
  }

  /** Gives the node these addresses of NODE and takes the others from it. */
  async own(addresses: readonly string[]): Promise<void> {
    const moved = NODE.slice(2).filter((ip) => addresses.includes(ip) !== this.#own.includes(ip));
    this.#own = addresses;
    const lines = moved.map((ip) => {
      const line = address(ip, ip.includes(':') ? 64 : 24, 'eth0');
      return addresses.includes(ip) ? line : line.replace('addr add', 'addr del').replace(' nodad', '');
    });
    await this.#wire('node', lines);
  }

  /** All at once; outcomes in the order of the flows. */
  async run(flows: readonly HostFlow[]): Promise<FlowOutcome[]> {
    const outcomes: FlowOutcome[] = new Array(flows.length);
    const ports = this.#portsOf(flows);
    const engineOf = ({ via }: HostFlow) => (via === 'socket' && this.cgroup !== null ? 1 : 0);
    await Promise.all(
      this.#engines.map(async (engine, number) => {
        const mine = flows.map((flow, at) => ({ flow, at })).filter(({ flow }) => engineOf(flow) === number);
        const specs = mine.map(({ flow: { from, via: _, twin: __, ...rest }, at }) => ({
          ...rest,
          ns: this.file(from),
          sport: ports[at]!,
        }));
        const done = await engine.run(specs);
        for (const [i, { at }] of mine.entries()) outcomes[at] = done[i]!;
      }),
    );
    return outcomes;
  }

  #portsOf(flows: readonly HostFlow[]): number[] {
    const lines = new Map<string, { readonly port: number; readonly targets: Set<string> }>();
    return flows.map(({ from, via, proto, src, dst, dport, connected, sport, twin }) => {
      if (sport !== undefined) return sport;
      // Two sockets of one port that are not connected would get one another's datagrams.
      const mayShare = src !== '' && (proto === 'tcp' || connected);
      // Of one process: what two begin in one moment is in no order.
      const key = `${from} ${via} ${proto} ${src}`;
      const target = `${dst} ${dport}`;
      const line = lines.get(key);
      if (twin && mayShare && line && !line.targets.has(target)) {
        line.targets.add(target);
        return line.port;
      }
      const port = this.#port(from);
      if (mayShare) lines.set(key, { port, targets: new Set([target]) });
      return port;
    });
  }

  /** A client port that has not been used for long, whatever the protocol and the family. */
  #port(from: HostName): number {
    const last = this.#ports.get(from) ?? FIRST_PORT;
    const next = last >= LAST_PORT ? FIRST_PORT : last + 1;
    this.#ports.set(from, next);
    return next;
  }

  #removeThings(): void {
    removeNamespaces(this.#places().map((name) => this.#name(name)));
    try {
      if (this.cgroup !== null) rmdirSync(this.cgroup);
    } catch {
      // It was never made, or its process is still ending.
    }
  }

  async remove(): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.close()));
    process.off('exit', this.#removeAtExit);
    this.#removeThings();
  }
}

/** Worlds of runs that were ended from outside. */
function removeLeftovers(): void {
  const isOrphan = (name: string) => {
    const pid = /^tpf(\d+)-/.exec(name)?.[1];
    return pid !== undefined && !existsSync(`/proc/${pid}`);
  };
  if (existsSync('/run/netns')) removeNamespaces(readdirSync('/run/netns').filter(isOrphan));
}

function neighbour(ip: string, mac: string, device: string): string {
  return `neigh replace ${ip} lladdr ${mac} dev ${device} nud permanent`;
}

function address(ip: string, bits: number, device: string): string {
  return `addr add ${ip}/${bits} dev ${device}${ip.includes(':') ? ' nodad' : ''}`;
}

function settings(netns: string): string[] {
  const scopes = ['all', 'default'].flatMap((scope) => [
    `sysctl net/ipv4/conf/${scope}/rp_filter 0`,
    `sysctl net/ipv4/conf/${scope}/send_redirects 0`,
    `sysctl net/ipv4/conf/${scope}/accept_redirects 0`,
    `sysctl net/ipv6/conf/${scope}/accept_dad 0`,
    `sysctl net/ipv6/conf/${scope}/accept_ra 0`,
    `sysctl net/ipv6/conf/${scope}/accept_redirects 0`,
  ]);
  return [
    `netns ${netns}`,
    ...scopes,
    'sysctl net/ipv4/ip_forward 1',
    'sysctl net/ipv6/conf/all/forwarding 1',
    'sysctl net/ipv4/icmp_ratelimit 0',
    'sysctl net/ipv6/icmp/ratelimit 0',
    'sysctl? net/ipv4/icmp_msgs_per_sec 1000000',
    'sysctl? net/ipv4/icmp_msgs_burst 100000',
    'sysctl? net/netfilter/nf_conntrack_max 1000000',
    // Client ports are given out one after the other and come round: nothing may still hold them.
    'sysctl? net/ipv4/tcp_tw_reuse 1',
  ];
}

/** On a host: its addresses, and everything goes to a gateway that answers for every neighbour. */
function hostLines(own: readonly string[]): string[] {
  const lines = ['link set lo up', 'link set eth0 up'];
  for (const [family, ip] of own.entries()) {
    const gateway = family === 0 ? '169.254.1.1' : 'fe80::1';
    lines.push(address(ip, family === 0 ? 32 : 128, 'eth0'));
    if (family === 0) lines.push(`route add ${gateway} dev eth0 scope link`);
    lines.push(`neigh replace ${gateway} lladdr ${GATEWAY_MAC} dev eth0 nud permanent`);
    lines.push(`route add default via ${gateway} dev eth0`);
  }
  return lines;
}
