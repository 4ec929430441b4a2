/**
 * One node with everything around it that can send to a service or answer for it, in network namespaces:
 * the cluster of test/model/world.ts made real. Two bridges on the node, cni0 for its pods and eth0 for the
 * rest of the world; every host has only a /32 and a default route through the node, so that whatever the
 * node translates comes back through it, also between two hosts on one bridge.
 */
import { existsSync, mkdirSync, readFileSync, rmdirSync } from 'node:fs';
import { netnsPath } from '../../src/lab/paths.ts';
import { Place } from '../../src/lab/place.ts';
import { PodProcess } from '../../src/lab/pod-process.ts';
import { applyBatch, applySettings, createNamespaces, type Finished, runProgram } from '../../src/lab/run.ts';
import { removeNamespaces } from '../../src/lab/teardown.ts';
import { NODE_ADDRESSES } from '../model/world.ts';

interface Host {
  readonly bridge: 'cni0' | 'eth0';
  readonly ip4: string;
  readonly ip6: string;
  /** One server process for each, "tcp:80" answers as "<host>-80"; all of them over TCP and UDP. */
  readonly ports: readonly number[];
}

const BACKEND_PORTS = [80, 443, 8080, 5301, 5302];

const HOSTS = {
  pod: { bridge: 'cni0', ip4: '10.10.1.99', ip6: 'fd00:10:10:1::99', ports: [] },
  L1: { bridge: 'cni0', ip4: '10.10.1.1', ip6: 'fd00:10:10:1::1', ports: BACKEND_PORTS },
  L4: { bridge: 'cni0', ip4: '10.10.1.4', ip6: 'fd00:10:10:1::4', ports: BACKEND_PORTS },
  'remote-pod': { bridge: 'eth0', ip4: '10.10.2.99', ip6: 'fd00:10:10:2::99', ports: [] },
  R2: { bridge: 'eth0', ip4: '10.10.2.2', ip6: 'fd00:10:10:2::2', ports: BACKEND_PORTS },
  R3: { bridge: 'eth0', ip4: '10.10.2.3', ip6: 'fd00:10:10:2::3', ports: BACKEND_PORTS },
  R9: { bridge: 'eth0', ip4: '10.10.2.9', ip6: 'fd00:10:10:2::9', ports: BACKEND_PORTS },
  outside: { bridge: 'eth0', ip4: '198.51.100.7', ip6: '2001:db8:f::7', ports: [] },
  other: { bridge: 'eth0', ip4: '203.0.113.7', ip6: '2001:db8:e::7', ports: [] },
  /** Has the addresses that nobody else has: what the node lets pass is answered here. */
  nobody: { bridge: 'eth0', ip4: '192.0.2.9', ip6: '2001:db8::9', ports: [] },
} as const satisfies Record<string, Host>;
export type HostName = keyof typeof HOSTS;

const GATEWAY = {
  cni0: { ip4: '10.10.1.254', ip6: 'fd00:10:10:1::fe' },
  eth0: { ip4: '192.0.2.11', ip6: '2001:db8::11' },
} as const;
/** What a masqueraded connection may come from. */
export const MASQUERADE_ADDRESSES: readonly string[] = Object.values(GATEWAY).flatMap(({ ip4, ip6 }) => [
  ip4,
  ip6,
]);
const SECOND_NODE_ADDRESS = '192.0.2.111';
const EVERYTHING_ELSE = [
  ...['198.18.0.0/15', '203.0.113.8/29', '10.200.0.0/15'],
  ...['2001:db8:9::/48', '2001:db8:18::/48', 'fd00:10:200::/48'],
];
const CATCH_ALL_PORTS = [80, 9000, 9001, 30000, 30001];

function settings(namespace: string, role: 'router' | 'host'): string[] {
  const scopes = ['all', 'default'].flatMap((scope) => [
    // The host with the addresses of nobody answers ARP only for its own.
    `sysctl net/ipv4/conf/${scope}/arp_ignore 1`,
    `sysctl net/ipv4/conf/${scope}/rp_filter 0`,
    `sysctl net/ipv4/conf/${scope}/send_redirects 0`,
    `sysctl net/ipv4/conf/${scope}/accept_redirects 0`,
    `sysctl net/ipv6/conf/${scope}/accept_dad 0`,
    `sysctl net/ipv6/conf/${scope}/accept_ra 0`,
    `sysctl net/ipv6/conf/${scope}/accept_redirects 0`,
  ]);
  return [
    `netns ${netnsPath(namespace)}`,
    ...scopes,
    ...(role === 'router' ? ['sysctl net/ipv4/ip_forward 1', 'sysctl net/ipv6/conf/all/forwarding 1'] : []),
    'sysctl net/ipv4/icmp_ratelimit 0',
    'sysctl net/ipv6/icmp/ratelimit 0',
    'sysctl? net/ipv4/icmp_msgs_per_sec 1000000',
    'sysctl? net/ipv4/icmp_msgs_burst 100000',
    'sysctl? net/bridge/bridge-nf-call-iptables 0',
    'sysctl? net/bridge/bridge-nf-call-ip6tables 0',
    // Under a hammer a closed connection's port comes back soon, and its entry must not be in the way.
    'sysctl? net/netfilter/nf_conntrack_max 1000000',
  ];
}

export interface WorldOptions {
  /** Default: all of them. */
  readonly names?: readonly HostName[];
  /** cgroup v2 folder for the processes of the node and of its pods; it is made here. Default: none. */
  readonly cgroup?: string | null;
}

let worlds = 0;

export class NodeWorld {
  readonly #prefix: string;
  readonly #names: readonly HostName[];
  readonly #cgroup: string | null;
  readonly #servers: PodProcess[] = [];
  readonly #runners = new Map<string, PodProcess>();
  readonly #removeAtExit = () => removeNamespaces(this.#namespaces());

  private constructor({ names, cgroup }: Required<WorldOptions>) {
    this.#prefix = `tpw${process.pid}-${worlds++}`;
    this.#names = names;
    this.#cgroup = cgroup;
  }

  /** Makes the node and the named hosts, and starts their servers. */
  static async create(options: WorldOptions = {}): Promise<NodeWorld> {
    const world = new NodeWorld({ names: Object.keys(HOSTS) as HostName[], cgroup: null, ...options });
    process.on('exit', world.#removeAtExit);
    try {
      await world.#build();
    } catch (error) {
      await world.remove();
      throw error;
    }
    return world;
  }

  namespaceOf(place: HostName | 'node'): string {
    return `${this.#prefix}-${place}`;
  }

  /** Where a dataplane under test works. */
  get netns(): string {
    return netnsPath(this.namespaceOf('node'));
  }

  #namespaces(): string[] {
    return (['node', ...this.#names] as const).map((name) => this.namespaceOf(name));
  }

  async #build(): Promise<void> {
    if (this.#cgroup) mkdirSync(this.#cgroup);
    await createNamespaces(this.#namespaces());
    await applySettings(
      (['node', ...this.#names] as const).flatMap((name) =>
        settings(this.namespaceOf(name), name === 'node' ? 'router' : 'host'),
      ),
    );
    await this.ip('node', this.#nodeLines());
    await Promise.all(this.#names.map((name) => this.ip(name, hostLines(name))));
    // Real checksums on the wire: a wrong one is then found by whoever receives it.
    await applySettings(
      this.#names.flatMap((name) => [`netns ${netnsPath(this.namespaceOf(name))}`, 'txcsum eth0 off']),
    );
    const serve = (place: HostName | 'node', name: string, ports: readonly string[]) => {
      this.#servers.push(this.#process(place, name, ports));
    };
    const everywhere = (port: number) => [`tcp:${port}`, `udp:${port}`];
    for (const name of this.#names)
      for (const port of HOSTS[name].ports) serve(name, `${name}-${port}`, everywhere(port));
    if (this.#names.includes('nobody')) serve('nobody', 'nobody', CATCH_ALL_PORTS.flatMap(everywhere));
    serve('node', 'node', [30000, 30001, 9000].flatMap(everywhere));
    await Promise.all(this.#servers.map(({ ready }) => ready));
  }

  #nodeLines(): string[] {
    const lines = ['link set lo up'];
    for (const bridge of ['cni0', 'eth0'] as const) {
      const bits = { ip4: 24, ip6: 64 };
      lines.push(`link add ${bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`);
      lines.push(`addr add ${GATEWAY[bridge].ip4}/${bits.ip4} dev ${bridge}`);
      lines.push(`addr add ${GATEWAY[bridge].ip6}/${bits.ip6} dev ${bridge} nodad`);
      lines.push(`link set ${bridge} up`);
    }
    lines.push(`addr add ${SECOND_NODE_ADDRESS}/24 dev eth0`);
    this.#names.forEach((name, at) => {
      const { bridge, ip4, ip6 } = HOSTS[name];
      lines.push(`link add p${at} type veth peer name eth0 netns ${this.namespaceOf(name)}`);
      lines.push(`link set p${at} master ${bridge} up`);
      if (name === 'nobody') {
        lines.push(`route add default via ${ip4} dev eth0`, `route add default via ${ip6} dev eth0`);
      } else if (bridge === 'eth0') {
        lines.push(`route add ${ip4}/32 dev eth0`, `route add ${ip6}/128 dev eth0`);
      }
    });
    return lines;
  }

  #cgroupOf(place: HostName | 'node'): string | null {
    return place === 'node' || HOSTS[place].bridge === 'cni0' ? this.#cgroup : null;
  }

  #process(place: HostName | 'node', name: string, serve: readonly string[]): PodProcess {
    return new PodProcess({
      name,
      namespace: this.namespaceOf(place),
      serve,
      lifetime: 'process',
      cgroup: this.#cgroupOf(place),
      logFile: '/dev/null',
    });
  }

  /** From where traffic starts. */
  place(name: HostName | 'node'): Place {
    const namespace = this.namespaceOf(name);
    const addresses = name === 'node' ? GATEWAY.eth0 : HOSTS[name];
    return new Place({
      name,
      namespace,
      addresses: { 4: addresses.ip4, 6: addresses.ip6 },
      cgroup: this.#cgroupOf(name),
      runner: () => this.#runner(name),
    });
  }

  async #runner(name: HostName | 'node'): Promise<PodProcess> {
    let runner = this.#runners.get(name);
    if (!runner) {
      runner = this.#process(name, `${name}-client`, []);
      this.#runners.set(name, runner);
    }
    await runner.ready;
    return runner;
  }

  /** ICMP and ICMPv6 messages "destination unreachable" that a place has received so far. */
  async unreachables(name: HostName | 'node'): Promise<number> {
    const { pid } = (await this.#runner(name)).id;
    const lines = readFileSync(`/proc/${pid}/net/snmp`, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('Icmp:'))
      .map((line) => line.split(' '));
    const four = Number(lines[1]![lines[0]!.indexOf('InDestUnreachs')]);
    const six = /^Icmp6InDestUnreachs\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/net/snmp6`, 'utf8'));
    return four + Number(six?.[1] ?? 0);
  }

  /** Applies `ip` lines in one place. */
  async ip(place: HostName | 'node', lines: readonly string[]): Promise<void> {
    await applyBatch({ namespace: this.namespaceOf(place), lines });
  }

  /** Runs a program in one place. */
  run(place: HostName | 'node', command: readonly string[], input = ''): Promise<Finished> {
    return runIn(this.namespaceOf(place), command, input);
  }

  /** Ends everything and removes the namespaces. */
  async remove(): Promise<void> {
    const all = [...this.#servers, ...this.#runners.values()];
    for (const { id } of all) {
      try {
        if (id.pid > 0) process.kill(id.pid, 'SIGKILL');
      } catch {
        // It ended by itself.
      }
    }
    await Promise.all(all.map((one) => one.ended()));
    if (this.#cgroup && existsSync(this.#cgroup)) rmdirSync(this.#cgroup);
    this.#removeAtExit();
    process.off('exit', this.#removeAtExit);
  }
}

function hostLines(name: HostName): string[] {
  const { bridge, ip4, ip6 } = HOSTS[name];
  const gateway = GATEWAY[bridge];
  const lines = [
    'link set lo up',
    'link set eth0 up',
    `addr add ${ip4}/32 dev eth0`,
    `addr add ${ip6}/128 dev eth0 nodad`,
    `route add ${gateway.ip4}/32 dev eth0`,
    `route add ${gateway.ip6}/128 dev eth0`,
    `route add default via ${gateway.ip4}`,
    `route add default via ${gateway.ip6}`,
  ];
  if (name === 'nobody') {
    lines.push(...EVERYTHING_ELSE.map((range) => `route add local ${range} dev lo`));
  }
  return lines;
}

/** Runs a program in a namespace by name. `nsenter` and not `ip netns exec`: /sys stays as it is. */
export function runIn(namespace: string, command: readonly string[], input = ''): Promise<Finished> {
  return runProgram('nsenter', [`--net=${netnsPath(namespace)}`, ...command], input);
}

/** The name under which a backend answers: "10.10.1.1 80" is L1-80. null: no host of ours has the address. */
export function serverName(backend: string): string | null {
  const [address, port] = backend.split(' ');
  if (NODE_ADDRESSES.some((own) => own === address)) return 'node';
  for (const [name, host] of Object.entries(HOSTS)) {
    if ((host.ip4 === address || host.ip6 === address) && host.ports.length > 0) return `${name}-${port}`;
  }
  return null;
}
