/** The ebpf mode: our own programs carry the traffic. */
import type { DesiredChange, DesiredState } from '../../model/desired.ts';
import { createFlows } from '../../node/conntrack.ts';
import { addPorts, parsePorts, readReservedPorts, writeReservedPorts } from '../../node/reserved-ports.ts';
import type {
  AffinityView,
  ApplyResult,
  Degree,
  Measures,
  Remains,
  Switchable,
  TableUse,
  VerifyResult,
} from '../dataplane.ts';
import { Keeper } from '../nft/keeper.ts';
import type { TrafficReader } from '../traffic.ts';
import { COUNTERS, type CounterName } from './abi.ts';
import { readAffinities, writeAffinities } from './affinities.ts';
import type { CompilerResult, ServiceChange } from './compiler.ts';
import { readCounters } from './counters.ts';
import { ebpfDegrees } from './degrees.ts';
import { type DeviceRole, deviceRoles, uplinksOf } from './device-roles.ts';
import { requireBpf } from './kernel.ts';
import { acceptLocalOnLoopback } from './loopback.ts';
import { writeMeta } from './meta.ts';
import { clusterIPs } from './node-state.ts';
import { type EbpfOptions, withDefaults } from './options.ts';
import { generations, prepareRoot } from './pins.ts';
import { pressureOf } from './pressure.ts';
import { nodeFlows, nodeTargets } from './readback.ts';
import { EbpfRemains } from './remains.ts';
import { repinMaps } from './repin.ts';
import {
  closeRunning,
  discard,
  type Hooks,
  type Opened,
  openTables,
  type Running,
  withPrograms,
} from './running.ts';
import { countSockets, rememberSockets } from './sockets.ts';
import { xdpFeatures, xdpSenders } from './xdp-senders.ts';

export class EbpfDataplane implements Switchable {
  readonly mode = 'ebpf';
  readonly #options: ReturnType<typeof withDefaults>;
  #running: Running | null = null;

  constructor(options: EbpfOptions) {
    this.#options = withDefaults(options);
    // What is missing is said at once, so that `auto` can go on to the next mode; what is short is met by start() again.
    try {
      requireBpf();
    } catch (error) {
      if ((error as { code?: string }).code !== 'TP_KERNEL_REFUSED') throw error;
    }
    prepareRoot(this.#options.root);
  }

  /** What takes longest is the verifier. */
  warm(): void {
    if (this.#running || generations(this.#options.root).length > 0) return;
    this.#opening = openTables(this.#options, this.#hooks);
    this.#opening.catch(() => {});
  }
  #opening: Promise<Opened> | null = null;

  #open(): Promise<Opened> {
    const opening = this.#opening;
    this.#opening = null;
    return opening ?? openTables(this.#options, this.#hooks);
  }

  /** Where others may have connections, prepare() is asked instead, and lead(). */
  async start(state: DesiredState): Promise<ApplyResult> {
    const first = this.#running === null;
    const result = await this.prepare(state);
    if (first && this.#must().loaded.origin === 'new') await this.alone();
    this.lead();
    return result;
  }

  /** New maps stand on every hook and pick nothing; maps that are taken over go on as they are, picking or not. */
  async prepare(state: DesiredState): Promise<ApplyResult> {
    if (this.#running) return this.#bringAll(this.#running, state);
    const opened = await this.#open();
    this.#complete = opened.loaded.origin === 'adopted';
    // Nobody looks at new maps yet: they are filled while the verifier reads the programs.
    const filled = this.#complete ? null : await fill(opened, state);
    const running = await withPrograms(opened, this.#options, this.#hooks);
    this.#running = running;
    const result = filled ? await this.#settle(running, filled, state) : await this.#bringAll(running, state);
    this.#reservePorts(running);
    // What changed since the tables were opened was told to nobody.
    if (running.compiler.rules.xdpForward !== running.gate.state.forward) this.#forwardChanged();
    this.#followDevices();
    this.#writeMeta(running);
    running.collector.start();
    // Those that come later and send before lead() are seen by the programs.
    if (running.node.isDraining) await rememberSockets(running.loaded.maps.handles.tp_sock_before!.fd);
    return result;
  }

  /** One store, so that a connection does not meet programs that pick at one device and not yet at the next. */
  lead(): void {
    const running = this.#must();
    const { node, drains, natReservations } = running;
    if (drains.length > 0) natReservations.follow(drains);
    node.setRules({ drain: 'off' });
    for (const drain of drains) drain.begin();
    // And what they have begun meanwhile.
    if (drains.length > 0) natReservations.follow(drains);
    if (this.#complete) return;
    this.#complete = true;
    this.#writeMeta(running);
  }
  /** False until it has taken connections: what never did is not taken over by the next agent. */
  #complete = false;

  readonly #hooks: Hooks = {
    onForward: () => this.#forwardChanged(),
    onRoutes: () => this.#routesChanged(),
    onDevices: () => this.#followDevices(),
    onDrain: () => this.#drain(),
  };

  #must(): Running {
    if (!this.#running) throw new Error('this dataplane has not been started, or is closed');
    return this.#running;
  }

  #bringAll(running: Running, state: DesiredState): Promise<ApplyResult> {
    return this.#settle(running, bring(running, state), state);
  }

  /** What the tables do not hold. */
  async #settle({ optOuts, sweeper }: Running, result: CompilerResult, state: DesiredState) {
    sweeper.add(result.departures);
    return merge(result, await optOuts.follow(state.node.optOuts ?? []));
  }

  async apply(change: DesiredChange, state: DesiredState): Promise<ApplyResult> {
    const { node, optOuts } = this.#must();
    let settled: ApplyResult = { operations: 0, refusals: [] };
    if (change.node) {
      settled = merge(node.setNode(change.node), await optOuts.follow(change.node.optOuts ?? []));
      this.#followDevices();
    }
    const changes: ServiceChange[] = change.remove.map((service) => ({ service, next: null }));
    for (const next of change.set) changes.push({ service: next.key, next });
    node.growSpans(clusterIPs({ node: state.node, services: new Map(change.set.map((s) => [s.key, s])) }));
    return merge(settled, this.#compile(changes));
  }

  #compile(changes: readonly ServiceChange[]): CompilerResult {
    const { compiler, sweeper } = this.#must();
    const result = compiler.apply(changes);
    sweeper.add(result.departures);
    return result;
  }

  #reservePorts({ loaded }: Running): void {
    try {
      const before = readReservedPorts();
      const spans = parsePorts(before);
      const wanted = addPorts(spans, this.#options.natPorts);
      if (JSON.stringify(wanted) !== JSON.stringify(spans)) writeReservedPorts(wanted);
      this.#reservedBefore = loaded.meta.reservedBefore ?? before;
    } catch {
      // /proc/sys is read-only in some containers: a local socket may then sit on a NAT port, which is looked for.
      this.#reservedBefore = loaded.meta.reservedBefore;
    }
    this.#acceptLocalBefore = loaded.meta.acceptLocalBefore ?? acceptLocalOnLoopback();
  }
  #acceptLocalBefore: string | null = null;
  #reservedBefore: string | null = null;

  #writeMeta({ loaded, links }: Running): void {
    const meta = {
      ...loaded.meta,
      complete: this.#complete,
      reservedBefore: this.#reservedBefore,
      acceptLocalBefore: this.#acceptLocalBefore,
      clsact: links.clsactDevices(),
    };
    writeMeta(loaded.maps.meta, meta);
  }

  #roles(): Map<number, DeviceRole> {
    const { devices, node } = this.#must();
    return deviceRoles(devices.facts(), node.detector, this.#options.devices);
  }

  /** Devices by which XDP may send, as last looked at. */
  #senders: ReadonlySet<number> = new Set();
  /** Names by device index, as last looked at. */
  #uplinks: ReadonlyMap<number, string> = new Map();

  #followDevices(): void {
    if (!this.#running) return;
    const { rows, links, node, devices } = this.#running;
    node.setRules({ sourceRoutes: devices.sourceRoutes });
    const roles = this.#roles();
    // What masquerade needs is there before a program on the device asks for it.
    let changed = rows.follow(roles, this.#senders);
    this.#uplinks = uplinksOf(roles);
    const clsact = links.clsactDevices().join();
    links.follow(roles);
    // Whether XDP may send by a device depends on how it stands there, and next hops remember it.
    this.#senders = xdpSenders(roles, links.xdpModes(), (ifindex) => xdpFeatures('', ifindex));
    changed += rows.follow(roles, this.#senders);
    if (changed > 0) this.#routesChanged();
    if (links.clsactDevices().join() !== clsact) this.#writeMeta(this.#running);
  }

  /** Rules of the node came or went that XDP would pass by. */
  #forwardChanged(): void {
    if (!this.#running) return;
    const { compiler, gate } = this.#running;
    compiler.setRules({ ...compiler.rules, xdpForward: gate.state.forward });
  }

  #routesChanged(): void {
    this.#running?.node.settings.advanceRoutes();
    for (const drain of this.#running?.drains ?? []) drain.advanceRoutes();
  }

  #drain(): void {
    const running = this.#must();
    running.drains = running.drains.filter((drain) => !drain.step());
    running.natReservations.followPasses(running.drains);
    if (running.drains.length > 0 || !running.drainTimer) return;
    running.node.setRules({ older: 'none' });
    clearInterval(running.drainTimer);
    running.drainTimer = null;
  }

  async verify(state: DesiredState): Promise<VerifyResult> {
    const { loaded, compiler, node, rows, links, optOuts } = this.#must();
    const repaired = [...compiler.repair(), ...(await optOuts.repair())];
    if (node.repair()) repaired.push('the settings were changed');
    const devices = rows.repair();
    if (devices > 0) repaired.push(`${devices} devices were not as they should be`);
    repaired.push(...repinMaps(this.#options.root, loaded), ...links.repair());
    this.#followDevices();
    node.renewSpans(state);
    return { repaired };
  }

  /** Tells connection tracking of what the node's own processes have open: netfilter sees those with their frontend. */
  async introduce(): Promise<void> {
    const { compiler, clock } = this.#must();
    this.#keepsKernelAwake = true;
    await new Keeper('').install();
    await createFlows(nodeFlows(compiler.maps, clock.hz));
  }

  async retire(): Promise<Remains> {
    const { node, collector, compiler, clock } = this.#must();
    node.setRules({ drain: 'on' });
    const targets = () => nodeTargets(compiler.maps, clock.hz);
    return new EbpfRemains(this, this.#options.root, collector.passes, targets);
  }

  /** The kernel translates nothing any more that was there before us, and is not asked. */
  async alone(): Promise<void> {
    this.#must().node.setRules({ kernelConnections: 'none' });
    if (this.#keepsKernelAwake) await new Keeper('').remove();
    this.#keepsKernelAwake = false;
  }
  #keepsKernelAwake = false;

  async affinities(): Promise<readonly AffinityView[]> {
    const { compiler, clock } = this.#must();
    return readAffinities(compiler, clock.ticks(), clock.hz);
  }

  async learnAffinities(affinities: readonly AffinityView[]): Promise<void> {
    const { compiler, clock } = this.#must();
    writeAffinities(compiler, affinities, clock.ticks(), clock.hz);
  }

  /** Connections in the tables, as of the last pass of collection, and how many passes there were. */
  connections(): { live: number; passes: number } {
    const { collector, drains } = this.#must();
    return { live: collector.last.live + drains.length, passes: collector.passes };
  }

  /** Sockets that believe to talk to a frontend, and flows of those that say so with each datagram. */
  async sockets(): Promise<number> {
    const { loaded, clock } = this.#must();
    return countSockets(loaded.maps.handles, clock);
  }

  traffic(): TrafficReader | null {
    return this.#running?.counter ?? null;
  }

  measures(): Measures {
    if (!this.#running) return { tables: [], packets: {} };
    return { tables: this.pressure(), packets: this.counters() };
  }

  /** How full the tables are. Those of connections and affinity as of the last pass of collection. */
  pressure(): TableUse[] {
    const { compiler, collector, optOuts } = this.#must();
    return [...pressureOf(compiler, collector.last), optOuts.use];
  }

  /** What the programs count, since the maps were made. */
  counters(): Record<CounterName, number> {
    return readCounters(this.#must().compiler.maps.handles.tp_counters!.fd, COUNTERS);
  }

  /** What could not be attached, and how XDP is attached, by device. */
  attachments(): { problems: ReadonlyMap<string, string>; xdp: ReadonlyMap<number, 'native' | 'generic'> } {
    const { links } = this.#must();
    return { problems: links.problems, xdp: links.xdpModes() };
  }

  degrees(): Degree[] {
    const running = this.#running;
    if (!running) return [];
    const { links, loaded, gate, optOuts, omitted } = running;
    const { cgroup, socketLb, xdp } = this.#options;
    const { ctLookup } = loaded;
    const degrees = ebpfDegrees({
      ...{ held: links.held(), problems: links.problems, spared: links.spared, uplinks: this.#uplinks },
      ...{ omitted, ctLookup, socketLb, cgroup, xdp, forwarding: gate.state },
    });
    return [...degrees, ...optOuts.degrees()];
  }

  /** Collects everything that can be collected now; for tests, which do not wait. */
  collect(): void {
    this.#must().collector.pass();
  }

  async close(): Promise<void> {
    const running = this.#running;
    this.#running = null;
    if (running) await closeRunning(running);
    const opening = this.#opening;
    this.#opening = null;
    await opening?.then(discard, () => {});
  }
}

function merge(a: ApplyResult, b: ApplyResult): ApplyResult {
  return { operations: a.operations + b.operations, refusals: [...a.refusals, ...b.refusals] };
}

/** What is made for nothing goes. */
async function fill(opened: Opened, state: DesiredState): Promise<CompilerResult> {
  try {
    return bring(opened, state);
  } catch (error) {
    await discard(opened);
    throw error;
  }
}

/** From whatever the tables hold to `state`. */
function bring({ compiler, node }: Opened, state: DesiredState): CompilerResult {
  const settled = node.setNode(state.node);
  const changes: ServiceChange[] = [];
  for (const service of compiler.services.keys())
    if (!state.services.has(service)) changes.push({ service, next: null });
  for (const [service, next] of state.services) changes.push({ service, next });
  node.growSpans(clusterIPs(state));
  const result = compiler.apply(changes);
  node.renewSpans(state);
  return { ...result, ...merge(settled, result) };
}
