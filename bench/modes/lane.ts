/**
 * A lane: a lab of its own, whose node under test runs one mode with one size of cluster. A client pod on that
 * node and a client outside call backends on another node; all of it goes through the node under test, in both
 * directions and in every lane, so lanes differ in nothing but the proxy. They run in turns.
 */
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Agent } from '../../src/lab/agent.ts';
import { cgroupMount } from '../../src/lab/cgroups.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { podProgram } from '../../src/lab/paths.ts';
import type { Place } from '../../src/lab/place.ts';
import type { PerFamily } from '../../src/lab/plan.ts';
import { placement } from '../../src/lab/pod-process.ts';
import { clusterCidrFlag } from '../../src/lab/wiring.ts';
import type { Family } from '../../src/model/records.ts';
import type { Histogram } from '../support/histogram.ts';
import { type LoadKind, LoadProgram } from '../support/load-program.ts';
import { inNamespace, loadRules } from '../support/namespace.ts';
import type { Backend, ClusterSize } from './cluster.ts';
import {
  balancerIp,
  calledAmong,
  clusterIp,
  ECHO_PORT,
  NAME_PORT,
  nodePort,
  SERVICE_PORTS,
} from './cluster.ts';
import { type Feed, ManifestFeed } from './feed.ts';
import { isKubeProxy, KubeProxy } from './kube-proxy.ts';
import { isPlain, isUntracked, type LaneMode, type OwnMode } from './lane-mode.ts';
import { lastWords, standingRefusal } from './last-words.ts';
import { oneRuleTable } from './one-rule.ts';
import type { Rival } from './rival.ts';

const MODE_ARGS: Readonly<Record<OwnMode, readonly string[]>> = {
  nft: ['--proxy-mode', 'nft'],
  ipvs: ['--proxy-mode', 'ipvs'],
  ebpf: ['--proxy-mode', 'ebpf'],
  'ebpf-tc': ['--proxy-mode', 'ebpf', '--socket-lb', 'off'],
  'ebpf-untracked': ['--proxy-mode', 'ebpf'],
};

/** Where a call goes to, and who makes it. */
export type TargetKind = 'pod' | 'ClusterIP' | 'NodePort' | 'LoadBalancer' | 'pod from outside';

export interface Target {
  readonly kind: TargetKind;
  readonly family: Family;
  /** The number of the service; -1: none. */
  readonly service: number;
  /** Its place among the called ones. */
  readonly place: number;
}

export interface CallFigures {
  /** Of one call; of one MiB for 'stream'. */
  readonly nanoseconds: number;
  /** How many had no answer. With one among them the times say nothing: it was waited for. */
  readonly failed: number;
  readonly histogram: Histogram;
}

const NODE = 'node';
const FAR = 'far';
export const BACKEND_PODS = ['b1', 'b2', 'b3'] as const;

/** What most nodes do anyway: connection tracking, and a firewall's usual first rule. */
const CONNTRACK = `table inet bench-node {
  chain forward {
    type filter hook forward priority 0;
    ct state established,related accept
    ct state invalid drop
  }
}
`;
/** Entries of closed connections go soon, so that the table does not grow from round to round. */
const CONNTRACK_SECONDS = {
  tcp_timeout_time_wait: 2,
  tcp_timeout_close: 2,
  udp_timeout: 2,
  udp_timeout_stream: 5,
};

/** Where clients outside of the cluster are. */
const OUTSIDE = { 4: '192.0.2.0/24', 6: 'fd00:c::/64' } as const;
/** What `--bpf-services-max` and `--bpf-backends-max` are by themselves. */
const MAPS = { services: 65_536, backends: 1_048_576 };
const ANSWERS_MS_MAX = 120_000;
/** How often an agent's log is looked at while its answer is waited for. */
const LOOK_MS = 1000;

/**
 * In each family a service takes a frontend and its address. Each endpoint is a backend of its own here, and the maps have room
 * for a quarter as many backends as slots.
 */
function mapFlags({ services, endpoints }: ClusterSize, families: number): string[] {
  const frontends = families * 2 * services + 1000;
  const slots = families * 4 * (services * endpoints + 1000);
  return [
    ...(frontends > MAPS.services ? ['--bpf-services-max', String(frontends)] : []),
    ...(slots > MAPS.backends ? ['--bpf-backends-max', String(slots)] : []),
  ];
}

let count = 0;

export class Lane {
  readonly mode: LaneMode;
  readonly lab: Lab;
  readonly families: readonly Family[];
  feed: Feed;
  private agent: Agent | null = null;
  private kubeProxy: KubeProxy | null = null;
  private readonly rival: Rival | null;
  private readonly cpu: number;
  private readonly callers = new Map<string, LoadProgram>();
  private readonly servers: LoadProgram[] = [];

  private constructor(mode: LaneMode, lab: Lab, cpu: number, rival: Rival | null) {
    this.feed = rival?.feed ?? new ManifestFeed(lab);
    this.rival = rival;
    this.mode = mode;
    this.lab = lab;
    this.families = lab.plan.families;
    this.cpu = cpu;
  }

  /** Builds the lab; no proxy runs yet. With `rival`, cluster state comes from its API server. */
  static async create(
    mode: LaneMode,
    families: readonly Family[],
    cpu: number,
    rival: Rival | null = null,
  ): Promise<Lane> {
    const lab = await createLab({
      name: `bench-${process.pid}-${count++}`,
      nodes: [{ name: NODE }, { name: FAR, agent: 'none' }],
      pods: [
        { name: 'caller', node: NODE, serve: [] },
        ...BACKEND_PODS.map((name) => ({ name, node: FAR, serve: [`tcp:${NAME_PORT}`] })),
      ],
      families,
      cgroups: cgroupMount() === null ? 'none' : 'per-pod',
      localPortRange: [1024, 65_000],
    });
    const lane = new Lane(mode, lab, cpu, rival);
    await lane.wire();
    if (rival) await lane.linkToApi(rival);
    return lane;
  }

  /** Sends everything through the node under test, both ways. */
  private async wire(): Promise<void> {
    const { lab, families } = this;
    const node = lab.node(NODE);
    const far = lab.node(FAR);
    for (const family of families) {
      await lab.ip('fabric', [`route replace ${far.plan.podCidrs[family]} via ${node.addresses[family]}`]);
      await lab.ip(FAR, [`route replace ${OUTSIDE[family]} via ${node.addresses[family]}`]);
    }
    const netns = `/run/netns/${node.namespace}`;
    if (!isUntracked(this.mode)) {
      loadRules(netns, CONNTRACK);
      const settings = Object.entries(CONNTRACK_SECONDS).map(
        ([name, s]) => `net.netfilter.nf_conntrack_${name}=${s}`,
      );
      inNamespace(netns, 'sysctl', '-qw', ...settings);
    }
    for (const place of [lab.pod('caller'), lab.client])
      inNamespace(`/run/netns/${place.namespace}`, 'sysctl', '-qw', 'net.ipv4.tcp_tw_reuse=1');
  }

  /** Both ends of all calls, on one processor. */
  async startLoad(): Promise<void> {
    const cpu = String(this.cpu);
    for (const [at, name] of BACKEND_PODS.entries()) {
      const server = this.program(this.lab.pod(name), ['serve', cpu, String(ECHO_PORT), String(at + 1)]);
      this.servers.push(server);
      await server.ready();
    }
    for (const place of [this.lab.pod('caller'), this.lab.client])
      this.callers.set(place.name, this.program(place, ['call', cpu]));
  }

  private program(place: Place, args: readonly string[]): LoadProgram {
    const { namespace, cgroup } = place;
    return new LoadProgram([podProgram(), ...placement(namespace, 'process', cgroup), 'exec'], args);
  }

  /** One NAT rule for each way, to the backend that plain routing is called at. */
  translate(): void {
    const { lab } = this;
    const node = lab.node(NODE);
    for (const family of this.families) {
      const backend = (lab.pod(BACKEND_PODS[0]).addresses as PerFamily)[family]!;
      const nodeAddress = node.addresses[family]!;
      const rules = oneRuleTable({ family, backend, nodeAddress, outside: OUTSIDE[family] });
      loadRules(`/run/netns/${node.namespace}`, rules);
    }
  }

  /** The backends that called services have. */
  backends(): Backend[] {
    return BACKEND_PODS.map((name) => ({ node: FAR, addresses: this.lab.pod(name).addresses }));
  }

  private async linkToApi({ api, feed }: Rival): Promise<void> {
    api.link(`/run/netns/${this.lab.node(NODE).namespace}`);
    await feed.show('nodes', this.lab.nodeObjects());
  }

  /** Starts the proxy and does not wait for it. `size`: of the cluster, for which ebpf mode may want larger maps. */
  async startProxy(size: ClusterSize = { services: 1, endpoints: 1 }): Promise<void> {
    const { mode, lab, feed } = this;
    if (isPlain(mode)) return;
    if (isKubeProxy(mode)) {
      const clusterCidrs = clusterCidrFlag(lab.plan).split(',');
      const { program, feed: api } = this.rival!;
      const options = { program, mode, kubeconfig: api.kubeconfig, clusterCidrs, lab: lab.name };
      this.kubeProxy = new KubeProxy(lab.node(NODE), options);
      return;
    }
    const source = feed.kubeconfig === null ? [] : ['--manifests', '', '--kubeconfig', feed.kubeconfig];
    const maps = mode.startsWith('ebpf') ? mapFlags(size, this.families.length) : [];
    this.agent = await lab.startAgent(NODE, {
      args: [...MODE_ARGS[mode], ...maps, ...source],
      wait: 'started',
    });
  }

  /**
   * Resolves once the proxy says that it is ready; kube-proxy says so before its rules are in the kernel. Throws when the
   * agent refuses an object: the cluster would not be the one that this lane is for, and its calls may never be answered.
   */
  async ready(): Promise<void> {
    if (!this.agent) return;
    await this.unlessRefused(this.agent.ready());
    const refusal = this.refusal();
    if (refusal !== null) throw new Error(refusal);
  }

  private refusal(): string | null {
    return this.agent && standingRefusal(this.agent.log());
  }

  /** The work's outcome, or the reason why it cannot come to an end: a refusal that stays, or an agent that has ended. */
  private async unlessRefused<T>(work: Promise<T>): Promise<T> {
    if (!this.agent) return work;
    const { agent } = this;
    let looks: NodeJS.Timeout | undefined;
    let before: string | null = null;
    const wrong = new Promise<never>((_, reject) => {
      looks = setInterval(() => {
        const now = this.refusal();
        // Twice the same: what it takes at its next try is no fault.
        if (now !== null && now === before) reject(new Error(now));
        if (!agent.alive()) reject(new Error(`the agent ended: ${lastWords(agent.logFile)}`));
        before = now;
      }, LOOK_MS);
    });
    try {
      return await Promise.race([work, wrong]);
    } finally {
      clearInterval(looks);
    }
  }

  /** Resolves once the first backend answers through every service that is called. The load must have been started. */
  async carries(services: number): Promise<void> {
    const ended = this.kubeProxy?.ended() ?? new Promise<never>(() => {});
    ended.catch(() => {});
    for (const family of this.families)
      for (const service of calledAmong(services))
        await Promise.race([this.until(family, service, 1), ended]);
    if (isUntracked(this.mode)) this.expectUntracked();
  }

  /** What the proxy has just answered is in no table, or this lane would not be what its name says. */
  private expectUntracked(): void {
    const count = 'net.netfilter.nf_conntrack_count';
    const answer = inNamespace(`/run/netns/${this.lab.node(NODE).namespace}`, 'sysctl', '-n', count).trim();
    if (answer !== '0') throw new Error(`${this.mode}: the node tracks ${answer} connections`);
  }

  /** Resolves once a pod answers with its name through this service; throws when none does in time. */
  async answers(service: number): Promise<void> {
    const caller = this.lab.pod('caller');
    const deadline = performance.now() + ANSWERS_MS_MAX;
    const address = clusterIp(this.families[0]!, service);
    for (;;) {
      const { outcome } = await caller.ask('tcp', address, SERVICE_PORTS.name, { timeoutMs: 500 });
      if (outcome === 'ok') return;
      if (performance.now() > deadline)
        throw new Error(`${this.mode}: no answer through ${address}: ${outcome}`);
      await sleep(50);
    }
  }

  /** Ends kube-proxy, whose rules stay: it has no part in the way of a packet, and one for each lane is much memory. */
  async leaveRules(): Promise<void> {
    await this.kubeProxy?.stop();
  }

  /** Sends a service's balancer addresses to the node under test. */
  async routeBalancer(service: number): Promise<void> {
    for (const family of this.families)
      await this.lab.route(`${balancerIp(family, service)}/${family === 4 ? 32 : 128}`, NODE);
  }

  /** The address of a target; the port is for the echo server. */
  addressOf({ kind, family, service, place }: Target): { address: string; port: number } {
    const pod = this.lab.pod(BACKEND_PODS[0]).addresses as PerFamily;
    if (kind === 'ClusterIP') return { address: clusterIp(family, service), port: SERVICE_PORTS.echo };
    if (kind === 'LoadBalancer') return { address: balancerIp(family, service), port: SERVICE_PORTS.echo };
    if (kind === 'NodePort')
      return { address: this.lab.node(NODE).addresses[family]!, port: nodePort(place) };
    return { address: pod[family]!, port: ECHO_PORT };
  }

  async call(kind: LoadKind, target: Target, calls: number): Promise<CallFigures> {
    const { address, port } = this.addressOf(target);
    const inside = target.kind === 'ClusterIP' || target.kind === 'pod';
    const caller = this.callers.get(inside ? 'caller' : 'client')!;
    // Port + 1 is the one that swallows, at the service and at the pod.
    const { nanoseconds, failed, histogram } = await caller.call(
      kind,
      address,
      kind === 'stream' ? port + 1 : port,
      calls,
    );
    return { nanoseconds: nanoseconds / calls, failed, histogram };
  }

  /** CLOCK_MONOTONIC, in ns, at which the service's own address was first answered by the backend `id` (1..). */
  async until(family: Family, service: number, id: number): Promise<number> {
    const caller = this.callers.get('caller')!;
    const answer = await this.unlessRefused(
      caller.call('until', clusterIp(family, service), SERVICE_PORTS.echo, id),
    );
    if (answer.failed > 0) throw new Error(`${this.mode}: backend ${id} never answered`);
    return answer.nanoseconds;
  }

  /** Resident memory in MiB of the proxy; processor time so far in ms, with that of programs it ran (nft, iptables-restore). */
  usage(): { residentMiB: number; cpuMs: number } {
    const pid = this.agent?.id.pid ?? this.kubeProxy!.pid;
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // proc(5): fields 14 to 17 are utime, stime, cutime and cstime, in ticks of 10 ms; the name in field 2 may hold anything.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const rssKiB = Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? Number.NaN);
    const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
    return { residentMiB: rssKiB / 1024, cpuMs: ticks * 10 };
  }

  async close(): Promise<void> {
    await Promise.all([...this.callers.values(), ...this.servers].map((program) => program.end()));
    this.lab.down();
  }
}
