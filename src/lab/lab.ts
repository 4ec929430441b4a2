/**
 * A Kubernetes-shaped network on one machine: nodes, pods and an outside client in network namespaces.
 *
 *   const lab = await createLab({ name: 'mine' });
 *   await lab.pod('net-pod').call('tcp', '10.200.1.1', 9000, { count: 1000 });
 *   lab.down();
 *
 * Nothing is made in the machine's own network. A lab of lifetime 'process' (the default) is removed when
 * the process ends, whichever way; what SIGKILL leaves is removed by the next `down` or by the next lab of
 * the same name.
 */
import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import { TriplaneError } from '../model/errors.ts';
import { Agent, type AgentOptions } from './agent.ts';
import { labCgroup, makeCgroup } from './cgroups.ts';
import { forgetAtExit, removeAtExit } from './cleanup.ts';
import { type ApiObject, ManifestDir, nodeObject } from './manifests.ts';
import { LabNode, LabPod } from './members.ts';
import { agentSocket, labDir } from './paths.ts';
import { Place } from './place.ts';
import {
  type LabPlan,
  type LabSpec,
  type NodePlan,
  type PodPlan,
  type PodSpec,
  planLab,
  planPod,
} from './plan.ts';
import { OneShotRunner, PodProcess } from './pod-process.ts';
import { identify, isAlive, signal } from './processes.ts';
import { applyBatch, applySettings, createNamespaces } from './run.ts';
import { type LabState, type ProcessEntry, readState, writeState } from './state.ts';
import { downLab, removeNamespaces } from './teardown.ts';
import {
  checksumLines,
  clientBatch,
  clusterCidrFlag,
  fabricBatch,
  namespaces,
  nodeBatch,
  podBatch,
  podSettingLines,
  podUplinkLines,
  settingLines,
} from './wiring.ts';

export class Lab {
  readonly name: string;
  readonly nodes = new Map<string, LabNode>();
  readonly pods = new Map<string, LabPod>();
  readonly agents = new Map<string, Agent>();
  readonly client: Place;
  readonly manifests: ManifestDir;
  /** Settings that the kernel did not take, as paths below /proc/sys. */
  readonly missingSettings: string[] = [];
  readonly #state: LabState;
  readonly #processes = new Map<string, PodProcess>();
  readonly #attached: 'owner' | 'visitor';

  /** For createLab() and openLab(). */
  constructor(state: LabState, attached: 'owner' | 'visitor') {
    this.name = state.name;
    this.#state = state;
    this.#attached = attached;
    const dir = labDir(state.name);
    this.manifests = new ManifestDir(path.join(dir, 'manifests'), path.join(dir, 'drafts'));
    const { client } = state.plan;
    const cgroup = makeCgroup(state.cgroup, 'client');
    this.client = new Place({
      ...{ name: 'client', namespace: client.namespace, addresses: client.addresses, cgroup },
      runner: () => this.#runner('client', 'client', client.namespace, cgroup),
    });
    for (const node of state.plan.nodes) this.#addNodeObject(node);
    for (const pod of state.plan.pods) this.#addPodObject(pod);
  }

  get plan(): LabPlan {
    return this.#state.plan;
  }

  /** Throws a RangeError for an unknown name. */
  node(name: string): LabNode {
    const node = this.nodes.get(name);
    if (!node) throw new RangeError(`lab ${this.name} has no node ${name}`);
    return node;
  }

  /** Throws a RangeError for an unknown name. */
  pod(name: string): LabPod {
    const pod = this.pods.get(name);
    if (!pod) throw new RangeError(`lab ${this.name} has no pod ${name}`);
    return pod;
  }

  /** A pod, a node, or "client". */
  place(name: string): Place {
    if (name === 'client') return this.client;
    return this.pods.get(name) ?? this.node(name);
  }

  /** The cgroup v2 directory of a node (what ebpf mode attaches to); null without cgroups. */
  nodeCgroup(name: string): string | null {
    return makeCgroup(this.#state.cgroup, this.node(name).name);
  }

  /** Builds everything that the plan names. For createLab(). */
  async build(): Promise<void> {
    const { plan } = this;
    await createNamespaces(namespaces(plan));
    this.missingSettings.push(...(await applySettings(settingLines(plan))));
    await applyBatch(fabricBatch(plan));
    await Promise.all([
      applyBatch(clientBatch(plan)),
      ...plan.nodes.map((node) => applyBatch(nodeBatch(plan, node))),
    ]);
    const routed = plan.pods.filter((pod) => pod.network === 'pod');
    await Promise.all(routed.map((pod) => applyBatch(podBatch(plan, this.node(pod.node).plan, pod))));
    await applySettings(checksumLines(plan, plan.pods));
    await Promise.all(plan.pods.map((pod) => this.#startPod(pod)));
    this.writeNodes();
  }

  /** One more pod, on a running lab. */
  async addPod(spec: PodSpec): Promise<LabPod> {
    const { plan } = this;
    const pod = planPod(plan.name, spec, plan.nodes, plan.pods, plan.families);
    const node = this.node(pod.node).plan;
    this.#replan([...plan.pods, pod]);
    if (pod.network === 'pod') {
      await createNamespaces([pod.namespace]);
      await applySettings(podSettingLines(plan, pod));
      await applyBatch({ namespace: node.namespace, lines: podUplinkLines(plan, node, pod) });
      await applyBatch(podBatch(plan, node, pod));
      if (plan.txChecksum === 'off') await applySettings(checksumLines(this.plan, [pod]));
    }
    this.#addPodObject(pod);
    await this.#startPod(pod);
    return this.pod(pod.name);
  }

  /** Ends the pod and takes its network away: packets to it are dropped. Returns when it is gone. */
  async removePod(name: string): Promise<void> {
    const pod = this.pod(name);
    pod.kill();
    await this.#processes.get(name)?.ended();
    this.#processes.delete(name);
    this.pods.delete(name);
    if (pod.plan.network === 'pod') {
      await applyBatch({ namespace: this.node(pod.node).namespace, lines: [`link del ${pod.plan.device}`] });
      removeNamespaces([pod.namespace]);
    }
    this.#replan(this.plan.pods.filter((other) => other.name !== name));
  }

  /** Sends a CIDR from the fabric (so from the outside client) to a node, or, with null, nowhere. */
  async route(cidr: string, node: string | null): Promise<void> {
    const family = cidr.includes(':') ? 6 : 4;
    const via = node === null ? null : this.node(node).addresses[family];
    // `replace` with "unreachable" instead of a delete: idempotent, and refused at once as without a route.
    const line = via ? `route replace ${cidr} via ${via}` : `route replace unreachable ${cidr}`;
    await applyBatch({ namespace: this.plan.fabric.namespace, lines: [line] });
  }

  /** Applies `ip` lines ("route add ...") inside a node, a pod, "client" or "fabric". */
  async ip(place: string, lines: readonly string[]): Promise<void> {
    const namespace = place === 'fabric' ? this.plan.fabric.namespace : this.place(place).namespace;
    await applyBatch({ namespace, lines });
  }

  /** Makes a node's own process, the client or a pod answer on more ports ("tcp:7000"), as pods do on theirs. */
  async listen(place: string, ports: readonly string[]): Promise<void> {
    const { name, namespace, cgroup } = this.place(place);
    const role = this.pods.has(name) ? 'pod' : name === 'client' ? 'client' : 'node';
    await (await this.#process(name, role, namespace, cgroup, [])).serve(ports);
  }

  nodeObjects(): ApiObject[] {
    return this.plan.nodes.map((node) => nodeObject(node, this.plan.families));
  }

  /** nodes.yaml in the manifests directory; build() does it already. */
  writeNodes(): void {
    this.manifests.write('nodes', this.nodeObjects());
  }

  /** Starts `triplane run` in a node, reading this lab's manifests. */
  async startAgent(node: string, options: AgentOptions = {}): Promise<Agent> {
    const place = this.node(node);
    const dir = path.join(labDir(this.name), 'agents');
    const adminSocket = agentSocket(this.name, node);
    const cgroup = this.nodeCgroup(node);
    const any = place.addresses[4] ? '0.0.0.0' : '[::]';
    const loopback = place.addresses[4] ? '127.0.0.1' : '[::1]';
    const args = [
      ...[
        '--manifests',
        this.manifests.path,
        '--hostname-override',
        node,
        '--cluster-cidr',
        clusterCidrFlag(this.plan),
      ],
      ...['--proxy-mode', 'nft'],
      ...['--healthz-bind-address', `${any}:10256`, '--metrics-bind-address', `${loopback}:10249`],
      ...[
        '--admin-socket',
        adminSocket,
        ...['--bpf-root', this.#pins(node)],
        // Without a tree of its own, socket programs would stand on the whole machine's.
        ...(cgroup ? ['--cgroup-root', cgroup] : ['--socket-lb', 'off']),
        ...(options.args ?? []),
      ],
    ];
    const env = options.env ?? {};
    const { lifetime } = this.plan;
    const agent = new Agent({
      node: place,
      lifetime,
      args,
      env,
      adminSocket,
      logFile: path.join(dir, `${node}.log`),
    });
    this.#record({ ...agent.id, role: 'agent', name: node });
    this.agents.set(node, agent);
    if (options.wait !== 'started') await agent.ready(options.readyMs);
    return agent;
  }

  /** Pins are the whole machine's, so each node has a folder of its own. */
  #pins(node: string): string {
    // The BPF file system takes no dot.
    const dir = `/sys/fs/bpf/triplane-${this.name}-${node}`.replaceAll('.', '_');
    // In a user namespace the BPF file system is out of reach, so there is nothing to remove either.
    if (mayWrite('/sys/fs/bpf') && !this.#state.directories.includes(dir)) this.removeWithLab(dir);
    return dir;
  }

  /** An agent in every node that is to have one, started side by side. */
  async startAgents(options: AgentOptions = {}): Promise<Agent[]> {
    const nodes = this.plan.nodes.filter((node) => node.agent === 'run');
    return Promise.all(nodes.map((node) => this.startAgent(node.name, options)));
  }

  /** A lab of lifetime 'kept' that was to go with this process until now stays from here on. */
  keep(): void {
    forgetAtExit(this.name);
  }

  /** Removes everything. Idempotent. */
  down(): void {
    forgetAtExit(this.name);
    downLab(this.name);
  }

  /** A directory that down() removes with the rest, such as one of pins. */
  removeWithLab(dir: string): void {
    this.#state.directories.push(dir);
    writeState(this.#state);
  }

  #record(entry: ProcessEntry): void {
    this.#state.processes = this.#state.processes.filter((p) => isAlive(p));
    this.#state.processes.push(entry);
    writeState(this.#state);
  }

  #replan(pods: readonly PodPlan[]): void {
    const plan = { ...this.plan, pods };
    this.#state.plan = plan;
    this.#state.namespaces = namespaces(plan);
    writeState(this.#state);
  }

  #addNodeObject(plan: NodePlan): void {
    const cgroup = makeCgroup(this.#state.cgroup, plan.name, 'host');
    this.nodes.set(
      plan.name,
      new LabNode(plan, cgroup, () => this.#runner(plan.name, 'node', plan.namespace, cgroup)),
    );
  }

  #addPodObject(plan: PodPlan): void {
    const cgroup = makeCgroup(this.#state.cgroup, plan.node, plan.name);
    const life = {
      signal: (name: NodeJS.Signals) => {
        const entry = this.#state.processes.findLast((p) => p.role === 'pod' && p.name === plan.name);
        if (entry) signal(entry, name);
      },
      restart: () => this.#startPod(plan),
    };
    const runner = () => this.#runner(plan.name, 'pod', plan.namespace, cgroup);
    this.pods.set(plan.name, new LabPod(plan, cgroup, runner, life));
  }

  /** The owner talks to the place's standing process; a visitor starts one for each job. */
  #runner(name: string, role: ProcessEntry['role'], namespace: string, cgroup: string | null) {
    if (this.#attached === 'visitor') return new OneShotRunner(namespace, cgroup);
    return this.#process(name, role, namespace, cgroup, []);
  }

  async #process(
    name: string,
    role: ProcessEntry['role'],
    namespace: string,
    cgroup: string | null,
    serve: readonly string[],
  ): Promise<PodProcess> {
    const existing = this.#processes.get(name);
    if (existing && isAlive(existing.id)) {
      await existing.ready;
      return existing;
    }
    const logFile = path.join(labDir(this.name), 'logs', `${name}.log`);
    const { lifetime } = this.plan;
    const started = new PodProcess({ name, namespace, serve, lifetime, cgroup, logFile });
    this.#processes.set(name, started);
    this.#record({ ...started.id, role, name });
    await started.ready;
    return started;
  }

  async #startPod(plan: PodPlan): Promise<void> {
    const { cgroup } = this.pod(plan.name);
    await this.#processes.get(plan.name)?.ended();
    await this.#process(plan.name, 'pod', plan.namespace, cgroup, plan.serve);
  }
}

/** A lab of this name that its owner left behind is removed; one that is in use is not. */
function makeRoom(name: string): void {
  const state = readState(name);
  if (!state) return;
  if (state.plan.lifetime === 'kept' || isAlive(state.owner)) {
    throw new TriplaneError('TP_LOCKED', `lab ${name} exists: triplane lab down --name ${name} removes it`);
  }
  downLab(name);
}

/**
 * Builds a lab and starts its pods. What cannot be built leaves nothing behind.
 * Throws a RangeError for a bad spec, TP_LOCKED when the name is in use, TP_NO_PRIVILEGE, TP_KERNEL_REFUSED.
 */
export async function createLab(spec: LabSpec = {}): Promise<Lab> {
  const plan = planLab(spec);
  makeRoom(plan.name);
  const cgroup = labCgroup(plan);
  const state: LabState = {
    version: 1,
    name: plan.name,
    owner: identify(process.pid)!,
    plan,
    namespaces: namespaces(plan),
    processes: [],
    directories: [labDir(plan.name)],
    cgroup,
  };
  removeAtExit(plan.name);
  writeState(state);
  const lab = new Lab(state, 'owner');
  try {
    await lab.build();
  } catch (error) {
    lab.down();
    throw error;
  }
  if (plan.lifetime === 'kept') forgetAtExit(plan.name);
  return lab;
}

/** A lab that another process built. Throws a RangeError when there is none of this name. */
export function openLab(name: string): Lab {
  const state = readState(name);
  if (!state) throw new RangeError(`there is no lab ${name}: triplane lab up --name ${name} builds it`);
  return new Lab(state, 'visitor');
}

function mayWrite(dir: string): boolean {
  try {
    accessSync(dir, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
