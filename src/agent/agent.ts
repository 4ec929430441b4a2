/**
 * The node agent: a source feeds the model, the loop brings the model into the kernel, and everybody who
 * wants to know reads it here.
 */
import type { Config } from '../config/config.ts';
import type { Dataplane } from '../dataplane/dataplane.ts';
import type { ModelChange } from '../model/change.ts';
import { ClusterModel } from '../model/cluster.ts';
import type { TriplaneError } from '../model/errors.ts';
import type { Address, Family, RecordChange } from '../model/records.ts';
import { same } from '../model/same.ts';
import type { AutoChoice } from '../probe/report.ts';
import type { Source, SourceListener } from '../source/source.ts';
import { configWarnings } from './config-warnings.ts';
import { countDesired, type DesiredCounts } from './counts.ts';
import { explainPacket } from './explanation.ts';
import { healthCheckAddresses, type MachineAddresses, modelConfig, nodeFacts } from './facts.ts';
import type { Handover } from './handover.ts';
import { holdupOf } from './holdup.ts';
import { MODE_SETTING, ModeControl } from './mode-control.ts';
import { ModeNews } from './mode-news.ts';
import { chooseDataplane, configureDataplane, trafficSettings } from './modes.ts';
import { PressureLog } from './pressure.ts';
import { ProblemLog } from './problem-log.ts';
import { type FlowParts, StaleFlows } from './stale-flows.ts';
import {
  type AgentControl,
  type AgentEvents,
  type AgentStatus,
  type ChangeEvent,
  type ConntrackEvent,
  type Counts,
  type ExplainRequest,
  type Explanation,
  type FamilyProgress,
  type HealthCheckPlan,
  type Holdup,
  type Log,
  type Measures,
  type Mode,
  type ModeStatus,
  type NodeStatus,
  type Problem,
  type RepairEvent,
  type RequestEvent,
  Signal,
  type SourceHealth,
  type SwitchResult,
  type SyncEvent,
  type TrafficReport,
} from './status.ts';
import { makeHandover } from './succession.ts';
import { SyncLoop } from './sync-loop.ts';
import { ThisNode } from './this-node.ts';
import { TrafficMeter } from './traffic-meter.ts';

/** What the agent uses of the machine; src/agent/start.ts makes the real ones. */
export interface AgentParts extends FlowParts {
  readonly config: Config;
  readonly nodeName: string;
  readonly log: Log;
  readonly source: Source;
  /** What the probe chose; null: a mode was asked for by name. */
  readonly auto: AutoChoice | null;
  readonly machine: () => MachineAddresses;
  /** Called once when the agent cannot do its work here at all. */
  readonly onHopeless: (error: TriplaneError) => void;
}

const FAMILIES: readonly Family[] = [4, 6];

export class Agent implements AgentStatus, AgentControl {
  readonly startedMs = Date.now();
  private readonly parts: AgentParts;
  private config: Config;
  private readonly model: ClusterModel;
  private readonly handover: Handover;
  private readonly modes: ModeControl;
  private readonly loop: SyncLoop;
  private readonly flows: StaleFlows;
  /** A change that is on its way into the kernel strands TCP clients. */
  private strandsTcp = false;
  private readonly problemLog: ProblemLog;
  private readonly pressure: PressureLog;
  private readonly news: ModeNews;
  private readonly thisNode: ThisNode;
  private readonly meter: TrafficMeter;
  private pendingServices = 0;
  private pendingEndpoints = 0;
  private readonly signals = {
    onSync: new Signal<SyncEvent>(),
    onChanges: new Signal<ChangeEvent>(),
    onConntrack: new Signal<ConntrackEvent>(),
    onRepair: new Signal<RepairEvent>(),
    onMode: new Signal<ModeStatus>(),
    onHealthChecks: new Signal<HealthCheckPlan>(),
    onRequest: new Signal<RequestEvent>(),
  };
  readonly events: AgentEvents = this.signals;
  /** Dataplane.warm(), when the machine is prepared and the cluster not known yet. */
  readonly warm = () => this.handover.current.warm?.();
  private counted: DesiredCounts | null = null;
  /** Where health checks of services listen. */
  private healthAddresses: readonly Address[];

  constructor(parts: AgentParts) {
    this.parts = parts;
    this.config = parts.config;
    this.problemLog = new ProblemLog(parts.log);
    this.pressure = new PressureLog(parts.log);
    const { config } = parts;
    this.news = new ModeNews(parts.log, parts.source);
    const isAwaited = config.manifests === '' ? 'yes' : 'no';
    const onReady = () => this.begin();
    this.thisNode = new ThisNode(
      { name: parts.nodeName, log: parts.log, isAwaited, onReady },
      config.detectLocalMode,
    );
    this.model = new ClusterModel(
      modelConfig(config, parts.nodeName),
      nodeFacts(config, null, parts.machine()),
    );
    this.healthAddresses = healthCheckAddresses(config, null, parts.machine());
    const choice = chooseDataplane(config.proxyMode, this.dataplaneOptions(), parts.auto);
    this.handover = this.handoverFrom(choice.dataplane);
    this.meter = this.meterOf(this.handover);
    const onSettled = () => this.news.tell(this.mode());
    const modeParts = { handover: this.handover, log: parts.log, onSettled };
    this.modes = new ModeControl(modeParts, config.proxyMode, choice.reason);
    this.flows = new StaleFlows(parts, this.model, this.handover, (event) =>
      this.signals.onConntrack.emit(event),
    );
    this.loop = new SyncLoop(
      {
        model: this.model,
        log: parts.log,
        families: FAMILIES,
        clearFlows: (flows) => this.flows.clear(flows),
        leftoverFlows: () => this.flows.leftovers(),
        onProduced: (change) => this.produced(change),
        onSync: (event) => this.afterSync(event),
        onRepair: (repaired) => this.afterRepair(repaired),
        onHopeless: parts.onHopeless,
        onRefusals: (refusals) => this.problemLog.setRefusals(refusals),
      },
      this.handover,
      config,
    );
  }

  private dataplaneOptions() {
    return { config: this.config, onForeignChange: () => this.loop.verifySoon() };
  }

  private handoverFrom(first: Dataplane): Handover {
    return makeHandover(first, {
      log: this.parts.log,
      options: () => this.dataplaneOptions(),
      state: () => this.model.state,
      beforeRemoval: () => this.meter.gather(),
      onMode: () => this.signals.onMode.emit(this.mode()),
      // What was left alone for its connections' sake is looked at once more.
      onDrained: () => this.flows.sweep.request('TCP', 'UDP'),
    });
  }

  private meterOf(handover: Handover): TrafficMeter {
    return new TrafficMeter({
      settings: trafficSettings(this.config),
      readers: () => handover.trafficReaders(),
      state: () => this.model.state,
      now: () => performance.now(),
      onFailure: ({ mode }, err) => this.parts.log.warn({ err, mode }, 'its traffic could not be read'),
    });
  }

  async start(): Promise<void> {
    this.parts.log.info({ mode: this.handover.mode, reason: this.modes.reason }, 'dataplane chosen');
    this.signals.onMode.emit(this.mode());
    try {
      await this.parts.source.start(this.listener());
    } catch (error) {
      await this.handover.close();
      throw error;
    }
  }

  async stop(): Promise<void> {
    this.news.close();
    this.thisNode.stop();
    try {
      await this.parts.source.stop();
    } finally {
      await this.modes.close();
      await this.loop.stop();
      await this.flows.sweep.stop();
      await this.handover.close();
    }
  }

  private listener(): SourceListener {
    return {
      onChanges: (changes) => this.onChanges(changes),
      onSynced: () => {
        this.parts.log.info({}, 'the first full state of the cluster is known');
        this.thisNode.synced();
      },
      onProblem: (problem) => this.problemLog.report('source', problem),
      onProblemGone: (object) => this.problemLog.gone('source', object),
      onRequest: (request) => this.signals.onRequest.emit(request),
    };
  }

  private begin(): void {
    this.machineChanged();
    this.warn();
    this.loop.begin();
  }

  private warn(): void {
    for (const line of configWarnings(this.config, this.model.thisNode, this.parts.machine()))
      this.parts.log.warn({}, line);
  }

  private onChanges(changes: readonly RecordChange[]): void {
    const nodeBefore = this.model.thisNode;
    this.model.apply(changes);
    this.thisNode.note(changes);
    let services = 0;
    let endpoints = 0;
    for (const change of changes) {
      const kind = change.op === 'set' ? change.record.kind : change.kind;
      if (kind === 'Service') services++;
      else if (kind === 'EndpointSlice') endpoints++;
    }
    this.pendingServices += services;
    this.pendingEndpoints += endpoints;
    this.parts.log.debug({ services, endpoints }, 'changes of the cluster taken in');
    this.signals.onChanges.emit({ services, endpoints });
    if (this.model.thisNode !== nodeBefore) {
      this.machineChanged();
      this.followAnnotation();
      this.thisNode.look();
    }
    if (this.model.isDirty) this.loop.changed();
  }

  private followAnnotation(): void {
    this.modes.annotate(this.model.thisNode?.settings[MODE_SETTING]);
  }

  /** Addresses of the machine or of the Node object may have changed. */
  machineChanged(): void {
    const machine = this.parts.machine();
    this.model.setFacts(nodeFacts(this.config, this.model.thisNode, machine));
    if (this.model.isDirty) this.loop.changed();
    const addresses = healthCheckAddresses(this.config, this.model.thisNode, machine);
    if (same(addresses, this.healthAddresses)) return;
    this.healthAddresses = addresses;
    this.signals.onHealthChecks.emit(this.healthChecks());
  }

  private produced(change: ModelChange): void {
    this.pendingServices = 0;
    this.pendingEndpoints = 0;
    this.counted = null;
    const { set, remove, staleFlows } = change;
    this.parts.log.debug(
      { set: set.length, removed: remove.length, staleFlows: staleFlows.length },
      'changes on their way into the kernel',
    );
    this.strandsTcp ||= change.strandsTcp;
    for (const problem of change.problems) this.problemLog.report('model', problem);
    for (const object of change.problemsGone) this.problemLog.gone('model', object);
    if (change.health.length > 0) this.signals.onHealthChecks.emit(this.healthChecks());
  }

  private afterSync(event: SyncEvent): void {
    const { operations, refusals } = event;
    // At a start nobody knows what came before.
    if (event.ok && (this.strandsTcp || event.scope === 'full')) {
      this.strandsTcp = false;
      this.flows.sweep.request('TCP');
    }
    if (event.ok && event.scope === 'full') {
      this.parts.log.info(
        { mode: event.mode, operations, refusals, ms: Math.round(event.durationMs) },
        'the kernel holds the full state',
      );
      this.news.tell(this.mode());
      this.pressure.look(this.measures().tables);
    } else {
      this.parts.log.debug({ operations, refusals, ms: event.durationMs }, 'changes applied');
    }
    this.signals.onSync.emit({ ...event, triggersMs: event.triggersMs.filter((ms) => ms >= this.startedMs) });
  }

  private afterRepair(repaired: readonly string[]): void {
    this.parts.log.warn({ repaired }, 'the kernel differed from what was applied; repaired');
    // While the rules were away, flows were begun without them.
    this.flows.sweep.requestAtOnce('TCP', 'UDP');
    this.signals.onRepair.emit({ mode: this.handover.mode, repaired });
  }

  synced(): boolean {
    return this.loop.synced;
  }
  progress(_family: Family): FamilyProgress {
    return this.loop.progress();
  }
  holdup(): Holdup | null {
    return holdupOf({
      sources: this.sources(),
      waitingFor: this.thisNode.waitingFor,
      synced: this.loop.synced,
      kernelError: this.loop.lastError,
    });
  }

  node(): NodeStatus {
    const node = this.model.thisNode;
    return {
      name: this.parts.nodeName,
      known: this.thisNode.known,
      absent: this.thisNode.absent,
      deleting: node?.deleting ?? false,
      taints: node?.taints ?? [],
      zone: node?.zone ?? '',
      addresses: nodeFacts(this.config, node, this.parts.machine()).nodeAddresses,
    };
  }

  mode(): ModeStatus {
    const { handover, modes } = this;
    const { reason, requested, failure } = modes;
    const { mode, switching, draining } = handover;
    const degrees = handover.degrees();
    return { mode, requested, reason, switching: switching ?? '', draining, failure, degrees };
  }

  measures(): Measures {
    return this.handover.measures();
  }

  traffic(): Promise<TrafficReport> {
    return this.meter.report();
  }

  counts(): Counts {
    this.counted ??= countDesired(this.model.state);
    return {
      ...this.counted,
      serviceChangesPending: this.pendingServices,
      endpointChangesPending: this.pendingEndpoints,
    };
  }

  healthChecks(): HealthCheckPlan {
    const services = [...this.model.healthChecks].map(([service, health]) => ({
      service,
      port: health.healthCheckNodePort,
      localReady: health.localReady,
    }));
    return { services, addresses: this.healthAddresses };
  }

  problems(): readonly Problem[] {
    return this.problemLog.all();
  }
  sources(): readonly SourceHealth[] {
    return this.parts.source.health();
  }

  async explain(request: ExplainRequest): Promise<Explanation> {
    const own = this.parts.machine().all.map(({ address }) => address);
    return explainPacket(request, this.model.state, own);
  }

  switchMode(mode: Mode | 'auto'): Promise<SwitchResult> {
    return this.modes.ask(mode);
  }

  /** Takes over what can change live. */
  reconfigure(config: Config): void {
    this.config = config;
    this.modes.configure(config.proxyMode);
    this.loop.setTimes(config);
    this.followSettings();
    this.model.setConfig(modelConfig(config, this.parts.nodeName));
    this.machineChanged();
    this.thisNode.look(config.detectLocalMode);
    this.warn();
  }

  /** A dataplane that takes over during this has the settings of when it was opened. */
  private async followSettings(): Promise<void> {
    await this.handover.settled();
    if (configureDataplane(this.handover.current, this.config)) this.loop.restart();
  }
}
