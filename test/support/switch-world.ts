/**
 * A node with an agent that changes its mode, and everybody who may have connections through it: pods, processes of the
 * node and a client outside, TCP and datagrams, connected sockets and others, both families. The node's namespace is
 * bare: nobody else's rules keep connection tracking or NAT alive.
 */
import { spawnSync } from 'node:child_process';
import type { SwitchResult } from '../../src/agent/status.ts';
import { askAgent } from '../../src/cli/admin-client.ts';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import type { Agent, AgentOptions } from '../../src/lab/agent.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { type ApiObject, serviceObject, sliceObjects } from '../../src/lab/manifests.ts';
import type { Place } from '../../src/lab/place.ts';
import { type PodPlan, serviceAddress } from '../../src/lab/plan.ts';
import type { HoldOptions } from '../../src/lab/results.ts';
import { applySettings } from '../../src/lab/run.ts';
import type { Family } from '../../src/model/records.ts';
import type { AdminStatus } from '../../src/observe/admin.ts';
import { Answers, lost, type Traffic, type Way } from './answers.ts';
import type { KubeProxyPort } from './kube-proxy-rules.ts';
import { Neighbour } from './neighbour.ts';
import { SLOWNESS } from './slowness.ts';

/**
 * TRIPLANE_TEST_LOAD=full: whatever a test asks for, there are at least so many open TCP connections, new ones a second, and
 * datagram flows by each way and kind of socket.
 */
const FULL = { open: 2000, rate: 500, datagrams: 8 };
const isFull = process.env.TRIPLANE_TEST_LOAD === 'full';
/** An emulated processor takes minutes to verify the programs of ebpf mode. */
const READY_MS = 60_000 * SLOWNESS;
const PORT = 9000;
const NODE_PORT = 30900;
const KEPT_NODE_PORT = 30901;
const WEB = 10;
const KEPT = 12;
const STICKY = 13;
const SINGLE = 14;

interface ServicePlan {
  readonly name: string;
  readonly host: number;
  readonly nodePort: number;
  readonly more: { readonly externalTrafficPolicy?: 'Local'; readonly affinitySeconds?: number };
  /** The one pod that answers; otherwise all of "web". */
  readonly only?: string;
}

const SERVICES: readonly ServicePlan[] = [
  { name: 'web', host: WEB, nodePort: NODE_PORT, more: {} },
  { name: 'kept', host: KEPT, nodePort: KEPT_NODE_PORT, more: { externalTrafficPolicy: 'Local' } },
  { name: 'single', host: SINGLE, nodePort: NODE_PORT + 3, more: {}, only: 'c' },
  { name: 'sticky', host: STICKY, nodePort: NODE_PORT + 2, more: { affinitySeconds: 600 } },
];

export interface SwitchSpec {
  readonly label: string;
  readonly families?: readonly Family[];
  /** Pods and processes within the tree of the socket programs, or all by packets. */
  readonly cgroups?: 'per-pod' | 'none';
  /** Further arguments of the agent. */
  readonly args?: readonly string[];
  /** Of the node's namespace, "net/netfilter/...=value". */
  readonly sysctls?: readonly string[];
}

/** Of traffic that nobody stops. */
const DURATION_MS = 1_800_000;

/** Short, so that what has ended is seen to have ended while a test looks. */
const SHORT = ['tcp_timeout_time_wait=2', 'tcp_timeout_close=2', 'udp_timeout=4', 'udp_timeout_stream=4'];

interface OpenOptions {
  readonly datagrams?: number;
  readonly intervalMs?: number;
  readonly durationMs?: number;
  /** A lost first datagram is sent again also here, and not only as the first after an agent's start. */
  readonly secondTry?: boolean;
}

export class SwitchWorld {
  readonly lab: Lab;
  readonly #spec: SwitchSpec;
  readonly #traffic: Traffic[] = [];
  /** Names of the pods behind most services, and of those that are on the node: all since the last stop(). */
  readonly #backends = { web: new Set<string>(), kept: new Set<string>() };
  #endpoints: readonly PodPlan[] = [];
  #answers = new Answers();
  /** Nothing has been opened since the agent started. */
  #fresh = true;

  constructor(lab: Lab, spec: SwitchSpec) {
    this.lab = lab;
    this.#spec = spec;
  }

  static async create(spec: SwitchSpec): Promise<SwitchWorld> {
    const lab = await createLab({
      name: `${spec.label}${process.pid}`,
      families: spec.families ?? [4, 6],
      nodes: [{ name: 'n1' }, { name: 'n2', agent: 'none' }],
      pods: [
        { name: 'a', node: 'n1' },
        { name: 'b', node: 'n1', labels: { app: 'web' } },
        { name: 'c', node: 'n2', labels: { app: 'web' } },
        { name: 'd', node: 'n2', labels: { app: 'web' } },
      ],
      cgroups: spec.cgroups ?? 'none',
    });
    const world = new SwitchWorld(lab, spec);
    try {
      await world.sysctl(SHORT.map((one) => `net/netfilter/nf_conntrack_${one}`));
      await world.sysctl(spec.sysctls ?? []);
      world.writeServices();
    } catch (error) {
      lab.down();
      throw error;
    }
    return world;
  }

  async sysctl(lines: readonly string[]): Promise<void> {
    const set = lines.map((line) => `sysctl ${line.replace('=', ' ')}`);
    await applySettings([`netns /run/netns/${this.node.namespace}`, ...set]);
  }

  /** @param web the backends of most services; default: all there are */
  writeServices(web?: readonly PodPlan[]): void {
    this.lab.manifests.write('services', this.serviceObjects(web));
  }

  /** The same as objects. */
  serviceObjects(web?: readonly PodPlan[]): ApiObject[] {
    const { lab } = this;
    const { families } = lab.plan;
    const clusterIPs = (host: number) => families.map((family) => serviceAddress(family, host));
    const both = [
      { name: 'tcp', port: PORT, targetPort: 80, protocol: 'TCP' as const },
      { name: 'udp', port: PORT, targetPort: 80, protocol: 'UDP' as const },
    ];
    const all = lab.plan.pods.filter(({ labels }) => labels.app === 'web');
    const endpoints = web ?? all;
    // Whoever had a pod that leaves gets another one.
    if (this.#endpoints.some((pod) => !endpoints.includes(pod))) this.forgetClients();
    this.#endpoints = endpoints;
    this.#mayAnswer(endpoints);
    const ports = [
      { name: 'tcp', port: 80, protocol: 'TCP' as const },
      { name: 'udp', port: 80, protocol: 'UDP' as const },
    ];
    return SERVICES.flatMap(({ name, host, nodePort, more, only }) => [
      serviceObject({
        ...{ name, clusterIPs: clusterIPs(host), type: 'NodePort' },
        ports: both.map((port) => ({ ...port, nodePort })),
        ...more,
      }),
      ...sliceObjects({
        ...{ service: name, families, ports },
        endpoints: only ? all.filter((pod) => pod.name === only) : endpoints,
      }),
    ]);
  }

  #mayAnswer(pods: readonly PodPlan[]): void {
    for (const { name, node } of pods) {
      this.#backends.web.add(name);
      if (node === 'n1') this.#backends.kept.add(name);
    }
  }

  /** The same services as kube-proxy would serve them on this node. */
  kubeProxyPorts(family: Family): KubeProxyPort[] {
    const all = this.lab.plan.pods.filter(({ labels }) => labels.app === 'web');
    return SERVICES.flatMap(({ name, host, nodePort, more, only }) =>
      (['tcp', 'udp'] as const).map((protocol) => ({
        ...{ name: `default/${name}:${protocol}`, protocol, port: PORT, nodePort },
        clusterIP: serviceAddress(family, host),
        policy: more.externalTrafficPolicy ?? 'Cluster',
        affinitySeconds: more.affinitySeconds ?? 0,
        backends: all
          .filter((pod) => !only || pod.name === only)
          .map(({ addresses, node }) => ({ address: addresses[family]!, port: 80, local: node === 'n1' })),
      })),
    );
  }

  /** Of a service with one backend, on the other node. */
  single(family: Family = 4): { address: string; port: number } {
    return { address: this.node.addresses[family]!, port: NODE_PORT + 3 };
  }

  /** The annotation triplane.dev/proxy-mode of the node; null: none. */
  async annotate(mode: Mode | null): Promise<void> {
    const objects = this.lab.nodeObjects().map((object) => {
      const { name } = object.metadata;
      const annotations = name === 'n1' && mode !== null ? { 'triplane.dev/proxy-mode': mode } : {};
      return { ...object, metadata: { ...object.metadata, annotations } };
    });
    this.lab.manifests.write('nodes', objects);
  }

  /** Somebody else's programs on the uplink, at clsact and at tcx. */
  async neighbour(): Promise<Neighbour> {
    const { stdout } = await this.node.exec(['ip', '-j', 'link', 'show', 'eth0']);
    const [link] = JSON.parse(stdout) as { ifindex: number }[];
    return Neighbour.attach(link!.ifindex, `/run/netns/${this.node.namespace}`);
  }

  get node(): Place {
    return this.lab.node('n1');
  }

  get agent(): Agent {
    return this.lab.agents.get('n1')!;
  }

  startAgent(mode: Mode, args: readonly string[] = [], options: AgentOptions = {}): Promise<Agent> {
    // XDP as well, which by itself keeps off veth: more that a switch can break.
    const all = ['--proxy-mode', mode, '--xdp', 'native', ...(this.#spec.args ?? []), ...args];
    this.#fresh = true;
    if (mode === 'ipvs') this.forgetClients();
    return this.lab.startAgent('n1', { readyMs: READY_MS, ...options, args: all });
  }

  switchTo(mode: Mode): Promise<SwitchResult> {
    this.#fresh = false;
    // Nobody can tell IPVS which clients a sticky service remembers.
    if (mode === 'ipvs') this.forgetClients();
    return askAgent<SwitchResult>(this.agent.adminSocket, 'POST', '/v1/switch', { mode });
  }

  status(): Promise<AdminStatus> {
    return askAgent<AdminStatus>(this.agent.adminSocket, 'GET', '/v1/status');
  }

  /** How somebody comes to a service, each another path through the node. */
  ways(family: Family): Way[] {
    const { lab } = this;
    const node = lab.node('n1').addresses[family]!;
    const [web, sticky] = [serviceAddress(family, WEB), serviceAddress(family, STICKY)];
    const from = { pod: lab.pod('a'), self: lab.pod('b'), node: this.node, client: lab.client };
    const { web: all, kept } = this.#backends;
    const ways: readonly (readonly [
      title: string,
      from: Place,
      to: string,
      port?: number,
      of?: Set<string>,
    ])[] = [
      ['pod to a cluster IP', from.pod, web],
      ['pod to a sticky cluster IP', from.pod, sticky],
      ['backend to its own service', from.self, web],
      ['node to a cluster IP', from.node, web],
      ['node to a sticky cluster IP', from.node, sticky],
      ['node to its own NodePort', from.node, node, NODE_PORT],
      ['client to a NodePort', from.client, node, NODE_PORT],
      ['client to a Local NodePort', from.client, node, KEPT_NODE_PORT, kept],
    ];
    return ways.map(([title, place, address, port = PORT, backends = all]) => ({
      ...{ title: `IPv${family}, ${title}`, from: place, address, port, backends },
      sticky: address === sticky,
    }));
  }

  /** What sticky services remember of their clients is lost, for a reason that the caller gives. */
  forgetClients(): void {
    this.#answers.forget();
  }

  /** What there was, for whoever wants to say how much it was. */
  opened = 0;
  exchanges = 0;
  answered = 0;

  /** Open connections and datagram flows by every way, that go on until stop(). */
  async open(connections: number, options: OpenOptions = {}): Promise<void> {
    const tcp = this.#atLeast(connections, FULL.open / this.#ways);
    const udp = this.#atLeast(options.datagrams ?? connections, FULL.datagrams);
    const { intervalMs = isFull ? 500 : 100, durationMs = DURATION_MS } = options;
    const again = options.secondTry ?? this.#fresh;
    this.#fresh = false;
    const opened = this.lab.plan.families.flatMap((family) =>
      this.ways(family).flatMap((way) =>
        (['tcp', 'udp', 'unconnected'] as const).map(async (kind) => {
          const count = kind === 'tcp' ? tcp : udp;
          if (count === 0) return;
          const times = { intervalMs, durationMs, timeoutMs: 8000 };
          await this.#open(way, kind, { connections: count, ...times }, again);
        }),
      ),
    );
    await Promise.all(opened);
  }

  /** All that there are, of all families. */
  get #ways(): number {
    const { families } = this.lab.plan;
    return families.length * this.ways(families[0]!).length;
  }

  /** None stays none. */
  #atLeast(asked: number, full: number): number {
    return isFull && asked > 0 ? Math.max(asked, Math.ceil(full)) : asked;
  }

  async #open(
    way: Way,
    kind: 'tcp' | 'udp' | 'unconnected',
    options: HoldOptions & { readonly connections: number; readonly durationMs: number },
    again: boolean,
  ): Promise<void> {
    const protocol = kind === 'tcp' ? 'tcp' : 'udp';
    const title = `${way.title}, ${kind}`;
    const { connections, durationMs } = options;
    const { era } = this.#answers;
    const begin = () =>
      way.from.hold(protocol, way.address, way.port, {
        ...options,
        ...(kind === 'unconnected' ? { socket: kind } : {}),
      });
    let hold = await begin();
    const first = await hold.established;
    // Of two first packets after a change of routes or device settings, as at an agent's start, the kernel may lose one
    // (docs/testing.md), and nobody sends a datagram again.
    if (
      again &&
      protocol === 'udp' &&
      first.open < connections &&
      hold.failures.every(({ outcome }) => outcome === 'timeout')
    ) {
      console.warn(`a second try: ${title}: ${connections - first.open} of ${connections} had no answer`);
      await hold.stop();
      hold = await begin();
    }
    this.#traffic.push({ title, way, protocol, kind: 'hold', rate: 0, durationMs, job: hold, era });
    const { open } = await hold.established;
    if (open !== connections)
      throw new Error(`${title}: ${open} of ${connections} opened; ${JSON.stringify(hold.failures[0])}`);
    this.opened += open;
  }

  /** New connections by every way, `rate` a second each. */
  async load(rate: number, close: 'fin' | 'rst' = 'fin', durationMs = DURATION_MS): Promise<void> {
    const least = this.#atLeast(rate, FULL.rate / this.#ways);
    for (const family of this.lab.plan.families)
      for (const way of this.ways(family)) {
        const options = { rate: least, close, timeoutMs: 8000, durationMs };
        const { era } = this.#answers;
        const job = await way.from.load('tcp', way.address, way.port, options);
        const title = `${way.title}, new`;
        this.#traffic.push({ title, way, protocol: 'tcp', kind: 'load', rate: least, durationMs, job, era });
      }
  }

  /** Ends new connections, and says what went wrong, one line each. */
  endLoads(): Promise<string[]> {
    return this.#end('load');
  }

  /** Ends everything, and says what went wrong with it, one line each. */
  async stop(): Promise<string[]> {
    const wrong = [...(await this.#end('load')), ...(await this.#end('hold'))];
    for (const names of Object.values(this.#backends)) names.clear();
    this.#mayAnswer(this.#endpoints);
    this.#answers = new Answers();
    return wrong;
  }

  async #end(kind: Traffic['kind']): Promise<string[]> {
    const all = this.#traffic.splice(0);
    this.#traffic.push(...all.filter((one) => one.kind !== kind));
    const wrong: string[] = [];
    for (const one of all.filter((traffic) => traffic.kind === kind)) {
      const result = await one.job.stop();
      this.exchanges += result.exchanges;
      this.answered += kind === 'load' ? result.outcomes.ok : 0;
      const lines = [...lost(one, result), ...this.#answers.wrong(one, result)];
      wrong.push(...lines.map((line) => `${one.title}: ${line}`));
    }
    return wrong;
  }

  /** Whether tables of ours are in the node's namespace, by name. */
  tables(): string[] {
    const { stdout } = spawnSync(
      'nsenter',
      [`--net=/run/netns/${this.node.namespace}`, 'nft', 'list', 'tables'],
      {
        encoding: 'utf8',
      },
    );
    return stdout.split('\n').filter((line) => line.includes('triplane'));
  }

  remove(): void {
    this.lab.down();
  }
}
