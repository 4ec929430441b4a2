/**
 * All records of the cluster, and the desired state that follows from them, kept up to date change by
 * change. The cost of a change does not depend on how many services there are, and the state depends only
 * on the records that are there now (of this node, on the last one), not on the order in which they came.
 */
import type { HealthChange, ModelChange, ModelConfig, NodeFacts, Trigger } from './change.ts';
import { Claims } from './claims.ts';
import {
  type Endpoint,
  type FlowProtocol,
  findFrontend,
  leadsAstray,
  mayStrand,
  type StaleFlow,
  servingOf,
  staleFlows,
} from './conntrack.ts';
import type { DesiredNode, DesiredPort, DesiredService, DesiredState, Frontend } from './desired.ts';
import { type Entry, frontendsOf, newEntry, sameClaims } from './entry.ts';
import { admitExternalIPs } from './external-ips.ts';
import { faultsOf, type ModelProblem } from './problem.ts';
import {
  keyOf,
  type NodeRecord,
  type ObjectKey,
  type RecordChange,
  type RecordKind,
  type ServiceRecord,
  type SliceRecord,
} from './records.ts';
import { same } from './same.ts';
import { Scope } from './scope.ts';
import { computeService, type NodeContext, type ServiceHealth, withFrontends } from './service.ts';
import { shareService } from './share.ts';

const NONE: readonly never[] = [];

function describe(frontend: Frontend): string {
  const address = frontend.address.includes(':') ? `[${frontend.address}]` : frontend.address;
  return `${frontend.kind} ${address}:${frontend.port}/${frontend.protocol}`;
}

/** What one produce() gathers. */
interface Harvest {
  readonly set: DesiredService[];
  readonly remove: ObjectKey[];
  readonly triggers: Trigger[];
  readonly staleFlows: StaleFlow[];
  strandsTcp: boolean;
  readonly health: HealthChange[];
  readonly problems: ModelProblem[];
  readonly problemsGone: string[];
}

export class ClusterModel {
  /** A live view: it changes with every produce(). */
  readonly state: DesiredState;
  readonly #services = new Map<ObjectKey, DesiredService>();
  readonly #healthChecks = new Map<ObjectKey, ServiceHealth>();
  readonly #problems = new Map<string, ModelProblem>();
  #config: ModelConfig;
  readonly #entries = new Map<ObjectKey, Entry>();
  /** The service that each slice belongs to, by the slice's key. */
  readonly #ownerOfSlice = new Map<ObjectKey, Entry>();
  readonly #scope = new Scope();
  readonly #claims = new Claims<Entry>();
  readonly #dirty = new Set<Entry>();
  #context: NodeContext;
  #thisNode: NodeRecord | null = null;
  #node: DesiredNode;
  #nodeIsDirty = false;

  constructor(config: ModelConfig, facts: NodeFacts) {
    this.#config = config;
    this.#context = {
      name: config.nodeName,
      zone: '',
      nodePortAddresses: facts.nodePortAddresses,
      nodeAddresses: facts.nodeAddresses,
      masqueradeAll: config.masqueradeAll,
    };
    this.#node = this.#makeNode();
    const readNode = () => this.#node;
    this.state = {
      services: this.#services,
      get node() {
        return readNode();
      },
    };
  }

  /** The last record of the node that this runs on; null: none so far. */
  get thisNode(): NodeRecord | null {
    return this.#thisNode;
  }

  /** Whether produce() has work to do. */
  get isDirty(): boolean {
    return this.#nodeIsDirty || this.#dirty.size > 0;
  }

  /** The services that have a health check now. Live. */
  get healthChecks(): ReadonlyMap<ObjectKey, ServiceHealth> {
    return this.#healthChecks;
  }

  /** What is wrong now, by object. Live. */
  get problems(): ReadonlyMap<string, ModelProblem> {
    return this.#problems;
  }

  /**
   * Whether a flow to `destination`, answered from `answers`, leads where no new one would, by the state of the
   * last produce(). Flows to what is no frontend of ours are none of our business.
   */
  leadsAstray(protocol: FlowProtocol, destination: Endpoint, answers: Endpoint): boolean {
    const owner = this.#claims.find({ protocol, ...destination });
    const ports = owner?.desired?.ports.filter((port) => port.protocol === protocol) ?? NONE;
    const found = findFrontend(ports, destination);
    if (!owner || !found) return false;
    return leadsAstray(...found, servingOf(owner.servedBefore, found[1]), answers);
  }

  /** Takes changes of records, in the order in which they happened. Takes effect at the next produce(). */
  apply(changes: readonly RecordChange[]): void {
    for (const change of changes) {
      if (change.op === 'delete') {
        this.#delete(change.kind, change.key);
        continue;
      }
      const { record } = change;
      switch (record.kind) {
        case 'Service':
          this.#setService(this.#entryOf(keyOf(record)), record);
          break;
        case 'EndpointSlice':
          this.#setSlice(record);
          break;
        case 'Node':
          // Other nodes say nothing that matters to this one's rules.
          if (record.name === this.#config.nodeName) this.#setThisNode(record);
          break;
        case 'ServiceCIDR':
        case 'Pod':
          this.#scope.set(record);
          this.#nodeIsDirty = true;
          break;
      }
    }
  }

  /** Takes another configuration of the same node. Takes effect at the next produce(). */
  setConfig(config: ModelConfig): void {
    const masquerade = config.masqueradeAll !== this.#config.masqueradeAll;
    const external = !same(config.externalIPCidrs, this.#config.externalIPCidrs);
    this.#config = config;
    this.#nodeIsDirty = true;
    if (external)
      for (const entry of this.#entries.values())
        if ((entry.record?.externalIPs.length ?? 0) > 0) this.#dirty.add(entry);
    if (!masquerade) return;
    this.#context = { ...this.#context, masqueradeAll: config.masqueradeAll };
    for (const entry of this.#entries.values()) if (entry.record !== null) this.#dirty.add(entry);
  }

  /** Takes new facts about this machine. Takes effect at the next produce(). */
  setFacts(facts: NodeFacts): void {
    const { nodePortAddresses, nodeAddresses } = facts;
    const ports = !same(nodePortAddresses, this.#context.nodePortAddresses);
    const own = !same(nodeAddresses, this.#context.nodeAddresses);
    if (!ports && !own) return;
    this.#context = { ...this.#context, nodePortAddresses, nodeAddresses };
    for (const entry of this.#entries.values()) {
      if (entry.record === null) continue;
      const { record } = entry;
      const listens = ports && record.ports.some((port) => port.nodePort !== 0);
      if (listens || (own && record.sourceRanges.length > 0)) this.#dirty.add(entry);
    }
  }

  /**
   * Brings `state` up to date with everything applied, and says what changed: services that come out as
   * they were are not in it.
   */
  produce(): ModelChange {
    const harvest: Harvest = {
      set: [],
      remove: [],
      triggers: [],
      staleFlows: [],
      strandsTcp: false,
      health: [],
      problems: [],
      problemsGone: [],
    };
    const affected = new Set<Entry>();
    for (const entry of this.#dirty) {
      affected.add(entry);
      for (const rival of this.#recompute(entry)) affected.add(rival);
    }
    this.#dirty.clear();
    for (const entry of affected) this.#publish(entry, harvest);
    const node = this.#publishNode();
    return node === null ? harvest : { ...harvest, node };
  }

  #entryOf(key: ObjectKey): Entry {
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = newEntry(key);
      this.#entries.set(key, entry);
    }
    return entry;
  }

  #setService(entry: Entry, record: ServiceRecord | null): void {
    if (same(entry.record, record)) return;
    entry.record = record;
    this.#dirty.add(entry);
  }

  #setSlice(slice: SliceRecord): void {
    const key = keyOf(slice);
    const entry = this.#entryOf(`${slice.namespace}/${slice.serviceName}`);
    const owner = this.#ownerOfSlice.get(key);
    if (owner !== undefined && owner !== entry) this.#deleteSlice(key);
    const at = entry.slices.findIndex((other) => other.name === slice.name);
    if (at >= 0 && same(entry.slices[at], slice)) return;
    if (at >= 0) entry.slices[at] = slice;
    // Not push(): a list of one slice would keep room for sixteen more.
    else entry.slices = [...entry.slices, slice];
    this.#ownerOfSlice.set(key, entry);
    if (slice.triggerMs > 0 && (entry.triggerMs === 0 || slice.triggerMs < entry.triggerMs)) {
      entry.triggerMs = slice.triggerMs;
    }
    this.#dirty.add(entry);
  }

  #deleteSlice(key: ObjectKey): void {
    const entry = this.#ownerOfSlice.get(key);
    if (entry === undefined) return;
    this.#ownerOfSlice.delete(key);
    entry.slices = entry.slices.filter((slice) => keyOf(slice) !== key);
    // The trigger time that a slice carries is of its last update: it says nothing about its deletion.
    entry.triggerMs = 0;
    this.#dirty.add(entry);
  }

  #setThisNode(record: NodeRecord): void {
    const { zone } = record;
    if (zone !== this.#context.zone) {
      this.#context = { ...this.#context, zone };
      for (const entry of this.#entries.values()) if (entry.record !== null) this.#dirty.add(entry);
    }
    this.#thisNode = record;
    this.#nodeIsDirty = true;
  }

  #delete(kind: RecordKind, key: ObjectKey): void {
    switch (kind) {
      case 'Service': {
        const entry = this.#entries.get(key);
        if (entry !== undefined) this.#setService(entry, null);
        break;
      }
      case 'EndpointSlice':
        this.#deleteSlice(key);
        break;
      case 'Node':
        // As kube-proxy: an object that is gone says nothing new about the machine that this runs on, and its zone
        // and pod CIDRs are not taken back while pods go on running (say, while a kubelet registers anew).
        break;
      case 'ServiceCIDR':
      case 'Pod':
        this.#scope.delete(kind, key);
        this.#nodeIsDirty = true;
        break;
    }
  }

  #makeNode(): DesiredNode {
    return this.#scope.desired(this.#config, this.#thisNode?.podCIDRs ?? NONE);
  }

  #publishNode(): DesiredNode | null {
    if (!this.#nodeIsDirty) return null;
    this.#nodeIsDirty = false;
    const node = this.#makeNode();
    if (same(node, this.#node)) return null;
    this.#node = node;
    return node;
  }

  /** Works out what a service claims. Returns the others whose outcome may be another now. */
  #recompute(entry: Entry): readonly Entry[] {
    const admitted = entry.record && admitExternalIPs(entry.record, this.#config.externalIPCidrs);
    const record = admitted?.record ?? null;
    entry.refused = admitted?.refused ?? NONE;
    const before = frontendsOf(entry.claimed);
    const result = record === null ? null : computeService(record, entry.slices, this.#context);
    entry.claimed = shareService(result?.desired ?? null, entry.claimed);
    entry.shadowed = result?.shadowed ?? NONE;
    entry.beyond = result?.beyond ?? 0;
    const serving = result?.serving ?? NONE;
    if (!same(serving, entry.serving)) entry.serving = serving;
    entry.health = result !== null && result.health.healthCheckNodePort !== 0 ? result.health : null;
    const createdMs = record?.createdMs ?? 0;
    const after = frontendsOf(entry.claimed);
    if (createdMs === entry.createdMs && sameClaims(before, after)) return NONE;
    entry.createdMs = createdMs;
    return this.#claims.replace(entry, before, after);
  }

  /** Settles what a service gets, and tells what is new about that. */
  #publish(entry: Entry, harvest: Harvest): void {
    const lost: string[] = [];
    const desired = shareService(this.#resolve(entry, lost), entry.desired);
    this.#publishFlows(entry, desired, harvest);
    if (desired !== entry.desired) {
      entry.desired = desired;
      if (desired !== null) {
        this.#services.set(entry.key, desired);
        harvest.set.push(desired);
      } else {
        this.#services.delete(entry.key);
        harvest.remove.push(entry.key);
      }
    }
    this.#publishHealth(entry, harvest);
    this.#publishProblem(entry, lost, harvest);
    if (entry.triggerMs > 0 && entry.record !== null) {
      harvest.triggers.push({ key: entry.key, triggerMs: entry.triggerMs });
    }
    entry.triggerMs = 0;
    if (entry.record === null && entry.slices.length === 0) this.#entries.delete(entry.key);
  }

  /** What the service claims without what others get. Adds one line for each frontend that is lost. */
  #resolve(entry: Entry, lost: string[]): DesiredService | null {
    for (const { frontend, by } of entry.shadowed) lost.push(`${describe(frontend)} belongs to ${by}`);
    const { claimed } = entry;
    if (claimed === null) return null;
    const ports: DesiredPort[] = [];
    const lostBefore = lost.length;
    for (const port of claimed.ports) {
      const kept = port.frontends.filter((frontend) => {
        const winner = this.#claims.winner(frontend);
        if (winner !== entry) lost.push(`${describe(frontend)} belongs to ${winner.key}`);
        return winner === entry;
      });
      const rest = withFrontends(port, kept);
      if (rest !== null) ports.push(rest);
    }
    if (lost.length === lostBefore) return claimed;
    return ports.length > 0 ? { key: entry.key, ports } : null;
  }

  #publishFlows(entry: Entry, desired: DesiredService | null, harvest: Harvest): void {
    const { servedBefore, serving } = entry;
    entry.servedBefore = serving;
    if (servedBefore.length === 0 && serving.length === 0) return;
    if (desired === entry.desired && serving === servedBefore) return;
    const previous = entry.desired ? { desired: entry.desired, serving: servedBefore } : undefined;
    const next = desired ? { desired, serving } : undefined;
    for (const flow of staleFlows(previous, next)) harvest.staleFlows.push(flow);
    harvest.strandsTcp ||= mayStrand(previous, next);
  }

  #publishHealth(entry: Entry, harvest: Harvest): void {
    const { key, health } = entry;
    if (same(health, this.#healthChecks.get(key) ?? null)) return;
    if (health === null) this.#healthChecks.delete(key);
    else this.#healthChecks.set(key, health);
    harvest.health.push({ key, health });
  }

  #publishProblem(entry: Entry, lost: readonly string[], harvest: Harvest): void {
    const object = `Service ${entry.key}`;
    const { code, reason } = faultsOf(entry, lost);
    if (reason === entry.problem) return;
    entry.problem = reason;
    if (reason === '') {
      this.#problems.delete(object);
      harvest.problemsGone.push(object);
      return;
    }
    const problem: ModelProblem = { code, object, reason, origin: '' };
    this.#problems.set(object, problem);
    harvest.problems.push(problem);
  }
}
