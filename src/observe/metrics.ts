/**
 * All metrics, and the only user of prom-client. Names and labels that kube-proxy has (pkg/proxy/metrics)
 * mean the same here, so that its dashboards go on working; our own begin with triplane_.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { AgentStatus, ConntrackEvent, RequestEvent, SyncEvent } from '../agent/status.ts';
import type { Family } from '../model/records.ts';
import { countFlows } from '../node/conntrack.ts';
import { PROGRAMMING_BUCKETS, REQUEST_BUCKETS, SYNC_BUCKETS } from './buckets.ts';
import { nodeEligible } from './health.ts';
import { trafficText } from './traffic-text.ts';

export interface Metrics {
  readonly contentType: string;
  /** The exposition text, piece by piece: series by service and endpoint may be many. */
  pieces(): AsyncIterable<string>;
  /** The same in one. */
  text(): Promise<string>;
  /** One answer of /healthz or /livez. */
  countProbe(probe: 'healthz' | 'livez', code: 200 | 503): void;
  /** Ends the subscriptions. */
  close(): void;
}

const FAMILIES = [4, 6] as const;
/** Metrics of one agent. `version` is shown by triplane_build_info. */
export function createMetrics(status: AgentStatus, version: string): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  addGauges(registry, status, version);
  const counters = addCounters(registry);
  const subscriptions = [
    status.events.onSync.on((event) => countSync(counters, event)),
    status.events.onConntrack.on((event) => countConntrack(counters, event)),
    status.events.onRepair.on(({ mode, repaired }) => counters.repairs.inc({ mode }, repaired.length)),
    status.events.onMode.on(({ mode }) => counters.switches.inc({ mode: mode === '' ? 'none' : mode })),
    status.events.onRequest.on((event) => countRequest(counters, event)),
    status.events.onChanges.on(({ services, endpoints }) => {
      counters.serviceChanges.inc(services);
      counters.endpointChanges.inc(endpoints);
    }),
  ];
  const pieces = () => piecesOf(registry, status);
  return {
    contentType: registry.contentType,
    pieces,
    text: async () => {
      const all: string[] = [];
      for await (const piece of pieces()) all.push(piece);
      return all.join('');
    },
    countProbe: (probe, code) => counters[probe].inc({ code: String(code) }),
    close: () => {
      for (const end of subscriptions) end();
    },
  };
}

async function* piecesOf(registry: Registry, status: AgentStatus): AsyncGenerator<string> {
  yield await registry.metrics();
  yield* trafficText(await status.traffic());
}

type Sample = readonly [Readonly<Record<string, string>>, number];

interface GaugeRow {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  readonly read: (status: AgentStatus) => readonly Sample[];
}

/** What is read from the agent at each scrape. */
const GAUGES: readonly GaugeRow[] = [
  {
    name: 'kubeproxy_sync_proxy_rules_last_timestamp_seconds',
    help: 'The last time proxy rules were successfully synced',
    labels: ['ip_family'],
    read: (status) => perFamily(status, ({ lastSyncedMs }) => lastSyncedMs / 1000),
  },
  {
    name: 'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds',
    help: 'The last time a sync of proxy rules was queued',
    labels: ['ip_family'],
    read: (status) => perFamily(status, ({ lastQueuedMs }) => lastQueuedMs / 1000),
  },
  {
    name: 'kubeproxy_sync_proxy_rules_endpoint_changes_pending',
    help: 'Pending proxy rules Endpoint changes',
    labels: [],
    read: (status) => [[{}, status.counts().endpointChangesPending]],
  },
  {
    name: 'kubeproxy_sync_proxy_rules_service_changes_pending',
    help: 'Pending proxy rules Service changes',
    labels: [],
    read: (status) => [[{}, status.counts().serviceChangesPending]],
  },
  {
    name: 'kubeproxy_sync_proxy_rules_no_local_endpoints_total',
    help: 'Number of services with a Local traffic policy and no endpoints',
    labels: ['traffic_policy', 'ip_family'],
    read: (status) =>
      status
        .counts()
        .noLocalEndpoints.map(({ policy, family, services }) => [
          { traffic_policy: policy, ip_family: label(family) },
          services,
        ]),
  },
  {
    name: 'triplane_mode_info',
    help: 'The mode that carries new connections, what was asked for, and why it is this one',
    labels: ['mode', 'requested', 'reason'],
    read: (status) => {
      const { mode, requested, reason } = status.mode();
      return [[{ mode, requested, reason }, 1]];
    },
  },
  {
    name: 'triplane_draining_connections',
    help: 'Connections that a former mode still carries, at the last look at them',
    labels: ['mode'],
    read: (status) => status.mode().draining.map(({ mode, connections }) => [{ mode }, connections]),
  },
  {
    name: 'triplane_mode_switch_failed',
    help: '1 while the last switch to another mode that was tried is one that failed',
    labels: [],
    read: (status) => [[{}, Number(status.mode().failure !== '')]],
  },
  {
    name: 'triplane_mode_degree_info',
    help: 'What the mode got of what it can do without, and why it is not the best there is',
    labels: ['mode', 'feature', 'device', 'got', 'reason'],
    read: (status) => {
      const { mode, degrees } = status.mode();
      return degrees.map(({ feature, device, got, reason }) => [{ mode, feature, device, got, reason }, 1]);
    },
  },
  {
    name: 'triplane_table_entries',
    help: 'Entries in use in a table of the mode; when it is full, what needs one more is refused by name',
    labels: ['table'],
    read: (status) => status.measures().tables.map(({ table, used }) => [{ table }, used]),
  },
  {
    name: 'triplane_table_entries_max',
    help: 'Entries that a table of the mode has room for',
    labels: ['table'],
    read: (status) => status.measures().tables.map(({ table, limit }) => [{ table }, limit]),
  },
  {
    name: 'triplane_packets',
    help: 'Packets since the tables of the mode were made, by what happened to them',
    labels: ['what'],
    read: (status) => Object.entries(status.measures().packets).map(([what, count]) => [{ what }, count]),
  },
  {
    name: 'triplane_synced',
    help: '1 once the kernel holds the first full state',
    labels: [],
    read: (status) => [[{}, Number(status.synced())]],
  },
  {
    name: 'triplane_node_eligible',
    help: '1 while the Node exists, is not being deleted and is not marked by the cluster autoscaler',
    labels: [],
    read: (status) => [[{}, Number(nodeEligible(status.node()))]],
  },
  {
    name: 'triplane_services',
    help: 'Services in the desired state',
    labels: [],
    read: (status) => [[{}, status.counts().services]],
  },
  {
    name: 'triplane_frontends',
    help: 'Frontends (address, protocol, port) in the desired state',
    labels: [],
    read: (status) => [[{}, status.counts().frontends]],
  },
  {
    name: 'triplane_backends',
    help: 'Backends in the desired state, over all pools',
    labels: [],
    read: (status) => [[{}, status.counts().backends]],
  },
  {
    name: 'triplane_problems',
    help: 'Objects that are refused at this moment, by error code',
    labels: ['code'],
    read: (status) => {
      const byCode = new Map<string, number>();
      for (const { code } of status.problems()) byCode.set(code, (byCode.get(code) ?? 0) + 1);
      return [...byCode].map(([code, count]) => [{ code }, count]);
    },
  },
  {
    name: 'triplane_source_synced',
    help: '1 once the first full list of what is watched has arrived',
    labels: ['what'],
    read: (status) => status.sources().map(({ what, synced }) => [{ what }, Number(synced)]),
  },
  {
    name: 'triplane_source_last_contact_timestamp_seconds',
    help: 'The last sign of life of a watch',
    labels: ['what'],
    read: (status) => status.sources().map(({ what, lastContactMs }) => [{ what }, lastContactMs / 1000]),
  },
  {
    name: 'triplane_conntrack_entries',
    help: 'Connections in the table of the kernel: at the limit, new ones are dropped',
    labels: [],
    read: () => conntrackUse('entries'),
  },
  {
    name: 'triplane_conntrack_entries_limit',
    help: 'Connections that the table of the kernel holds at most',
    labels: [],
    read: () => conntrackUse('entriesMax'),
  },
  {
    name: 'triplane_source_failures',
    help: 'Failures of a watch since the start',
    labels: ['what'],
    read: (status) => status.sources().map(({ what, failures }) => [{ what }, failures]),
  },
];

function addGauges(registry: Registry, status: AgentStatus, version: string): void {
  for (const { name, help, labels, read } of GAUGES) {
    new Gauge({
      name,
      help,
      labelNames: [...labels],
      registers: [registry],
      collect() {
        this.reset();
        for (const [values, number] of read(status)) this.set(values, number);
      },
    });
  }
  const build = new Gauge({
    name: 'triplane_build_info',
    help: 'The running version',
    labelNames: ['version', 'node_version'],
    registers: [registry],
  });
  build.set({ version, node_version: process.version }, 1);
}

type Counters = ReturnType<typeof addCounters>;

function addCounters(registry: Registry) {
  const registers = [registry];
  const counter = <L extends string>(name: string, help: string, ...labelNames: L[]) =>
    new Counter({ name, help, labelNames, registers });
  const histogram = (name: string, help: string, buckets: number[]) =>
    new Histogram({ name, help, labelNames: ['ip_family'], buckets, registers });
  const sync = 'kubeproxy_sync_proxy_rules';
  return {
    syncDuration: histogram(`${sync}_duration_seconds`, 'SyncProxyRules latency in seconds', SYNC_BUCKETS),
    fullDuration: histogram(
      'kubeproxy_sync_full_proxy_rules_duration_seconds',
      'SyncProxyRules latency in seconds for full resyncs',
      SYNC_BUCKETS,
    ),
    partialDuration: histogram(
      'kubeproxy_sync_partial_proxy_rules_duration_seconds',
      'SyncProxyRules latency in seconds for partial resyncs',
      SYNC_BUCKETS,
    ),
    programming: histogram(
      'kubeproxy_network_programming_duration_seconds',
      'In Cluster Network Programming Latency in seconds',
      PROGRAMMING_BUCKETS,
    ),
    conntrackDuration: histogram(
      'kubeproxy_conntrack_reconciler_sync_duration_seconds',
      'ReconcileConntrackFlowsLatency latency in seconds',
      SYNC_BUCKETS,
    ),
    conntrackDeleted: counter(
      'kubeproxy_conntrack_reconciler_deleted_entries_total',
      'Cumulative conntrack flows deleted by conntrack reconciler',
      'ip_family',
    ),
    nftFailures: counter(
      `${sync}_nftables_sync_failures_total`,
      'Cumulative proxy nftables sync failures',
      'ip_family',
    ),
    endpointChanges: counter(`${sync}_endpoint_changes_total`, 'Cumulative proxy rules Endpoint changes'),
    serviceChanges: counter(`${sync}_service_changes_total`, 'Cumulative proxy rules Service changes'),
    healthz: counter('kubeproxy_proxy_healthz_total', 'Cumulative proxy healthz HTTP status', 'code'),
    livez: counter('kubeproxy_proxy_livez_total', 'Cumulative proxy livez HTTP status', 'code'),
    syncs: counter(
      'triplane_syncs_total',
      'Applications of changes to the kernel',
      'mode',
      'scope',
      'result',
    ),
    operations: counter('triplane_kernel_operations_total', 'Kernel objects added, changed, removed', 'mode'),
    refusals: counter('triplane_kernel_refusals_total', 'Objects that the kernel refused', 'mode'),
    repairs: counter(
      'triplane_repairs_total',
      'Differences between kernel and desired state that were found and repaired',
      'mode',
    ),
    ...addRequestMetrics(registers),
    switches: counter(
      'triplane_mode_changes_total',
      'Changes of mode, by the new mode; the first one included',
      'mode',
    ),
  };
}

/** What client-go counts, for the dashboards that every Kubernetes component shares. */
function addRequestMetrics(registers: Registry[]) {
  return {
    requests: new Counter({
      name: 'rest_client_requests_total',
      help: 'Number of HTTP requests, partitioned by status code, method, and host.',
      labelNames: ['code', 'method', 'host'],
      registers,
    }),
    requestDuration: new Histogram({
      name: 'rest_client_request_duration_seconds',
      help: 'Request latency in seconds. Broken down by verb, and host.',
      labelNames: ['verb', 'host'],
      buckets: REQUEST_BUCKETS,
      registers,
    }),
  };
}

function countSync(counters: Counters, event: SyncEvent): void {
  const { mode, scope } = event;
  for (const family of event.families) {
    const labels = { ip_family: label(family) };
    const seconds = event.durationMs / 1000;
    counters.syncDuration.observe(labels, seconds);
    (scope === 'full' ? counters.fullDuration : counters.partialDuration).observe(labels, seconds);
    if (!event.ok && mode === 'nft') counters.nftFailures.inc(labels);
  }
  if (event.ok) {
    for (const triggeredMs of event.triggersMs) {
      // The clocks of two machines are involved: never let one that is ahead make time negative.
      const seconds = Math.max(0, Date.now() - triggeredMs) / 1000;
      for (const family of event.families)
        counters.programming.observe({ ip_family: label(family) }, seconds);
    }
  }
  counters.syncs.inc({ mode, scope, result: event.ok ? 'ok' : 'failed' });
  counters.operations.inc({ mode }, event.operations);
  counters.refusals.inc({ mode }, event.refusals);
}

function countConntrack(counters: Counters, { family, deleted, durationMs }: ConntrackEvent): void {
  const labels = { ip_family: label(family) };
  counters.conntrackDuration.observe(labels, durationMs / 1000);
  counters.conntrackDeleted.inc(labels, deleted);
}

/** As client-go counts: a request without an answer has the code <error>, and watches have no latency. */
function countRequest(counters: Counters, { method, verb, status, host, durationMs }: RequestEvent): void {
  counters.requests.inc({ code: status === 0 ? '<error>' : String(status), method, host });
  if (verb !== 'watch') counters.requestDuration.observe({ verb: method, host }, durationMs / 1000);
}

/** No sample where there is no connection tracking (in this mode, on this kernel). */
function conntrackUse(what: 'entries' | 'entriesMax'): Sample[] {
  try {
    return [[{}, countFlows()[what]]];
  } catch {
    return [];
  }
}

function perFamily(
  status: AgentStatus,
  read: (progress: NonNullable<ReturnType<AgentStatus['progress']>>) => number,
): Sample[] {
  return FAMILIES.flatMap((family): Sample[] => {
    const progress = status.progress(family);
    return progress === null ? [] : [[{ ip_family: label(family) }, read(progress)]];
  });
}

function label(family: Family): string {
  return `IPv${family}`;
}
