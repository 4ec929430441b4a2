/** An agent's read side whose every answer a test can set, and whose events it can fire. */
import {
  type AgentControl,
  type AgentStatus,
  type ChangeEvent,
  type ConntrackEvent,
  type Counts,
  type FamilyProgress,
  type HealthCheckPlan,
  type Holdup,
  type Measures,
  type ModeStatus,
  type NodeStatus,
  type Problem,
  type RepairEvent,
  type RequestEvent,
  Signal,
  type SourceHealth,
  type SyncEvent,
  type TrafficReport,
} from '../../../src/agent/status.ts';

export class TestAgent implements AgentStatus {
  readonly startedMs = 1_700_000_000_000;
  readonly events = {
    onSync: new Signal<SyncEvent>(),
    onChanges: new Signal<ChangeEvent>(),
    onConntrack: new Signal<ConntrackEvent>(),
    onRepair: new Signal<RepairEvent>(),
    onMode: new Signal<ModeStatus>(),
    onHealthChecks: new Signal<HealthCheckPlan>(),
    onRequest: new Signal<RequestEvent>(),
  };
  isSynced = true;
  families: Record<4 | 6, FamilyProgress | null> = {
    4: { lastSyncedMs: 1000, oldestQueuedMs: 0, lastQueuedMs: 900 },
    6: null,
  };
  nodeNow: NodeStatus = {
    ...{ name: 'n1', known: true, absent: false, deleting: false },
    ...{ taints: [], zone: 'z', addresses: [] },
  };
  holdupNow: Holdup | null = null;
  modeNow: ModeStatus = {
    ...{ mode: 'nft', requested: 'auto', reason: 'ebpf: "not" there', degrees: [] },
    ...{ switching: '', draining: [], failure: '' },
  };
  measuresNow: Measures = { tables: [], packets: {} };
  trafficNow: TrafficReport = {
    settings: { level: 'off', by: 'service' },
    services: [],
    endpoints: [],
  };
  countsNow: Counts = {
    services: 3,
    frontends: 5,
    backends: 7,
    serviceChangesPending: 1,
    endpointChangesPending: 2,
    noLocalEndpoints: [{ policy: 'external', family: 4, services: 2 }],
  };
  plan: HealthCheckPlan = { services: [], addresses: [] };
  problemsNow: Problem[] = [];
  sourcesNow: SourceHealth[] = [];

  synced = () => this.isSynced;
  holdup = () => this.holdupNow;
  progress = (family: 4 | 6) => this.families[family];
  node = () => this.nodeNow;
  mode = () => this.modeNow;
  measures = () => this.measuresNow;
  traffic = async () => this.trafficNow;
  counts = () => this.countsNow;
  healthChecks = () => this.plan;
  problems = () => this.problemsNow;
  sources = () => this.sourcesNow;
}

export const refusingControl: AgentControl = {
  explain: async () => {
    throw new Error('not asked for');
  },
  switchMode: async () => {
    throw new Error('not asked for');
  },
};
