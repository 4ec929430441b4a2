/**
 * /healthz and /livez as kube-proxy answers them (pkg/proxy/healthcheck/proxy_health.go), with one addition:
 * /healthz is 503 until the kernel holds the first full state, so that no load balancer sends to a node
 * before it can forward.
 */
import type { AgentStatus, NodeStatus, SyncStatus } from '../agent/status.ts';
import type { SocketAddress } from '../model/socket.ts';
import { type ListenFailure, pathOf, type RunningServer, reply, replyNotFound, serve } from './http.ts';

/** The cluster autoscaler's mark on a node that it is about to remove. */
const TO_BE_DELETED_TAINT = 'ToBeDeletedByClusterAutoscaler';
/** Go's zero time, for what never happened. */
const NEVER = '0001-01-01T00:00:00Z';

export interface FamilyHealth {
  readonly lastUpdated: string;
  readonly healthy: boolean;
}

/** The JSON body. Times as RFC 3339. */
export interface HealthBody {
  readonly lastUpdated: string;
  readonly currentTime: string;
  readonly nodeEligible?: boolean;
  readonly healthy: boolean;
  readonly status?: Readonly<Record<string, FamilyHealth>>;
  /** Only where the answer is 503: why, one line each. kube-proxy has no such field. */
  readonly reasons?: readonly string[];
}

export interface HealthAnswer {
  readonly code: 200 | 503;
  readonly body: HealthBody;
}

/**
 * Whether the proxy keeps up: false when a change has been waiting for the time-out (twice the sync period)
 * or longer in a family that was synced before.
 */
export function assess(status: SyncStatus, timeoutMs: number, nowMs: number): HealthBody {
  const families: Record<string, FamilyHealth> = {};
  let healthy = true;
  let lastUpdatedMs = 0;
  for (const family of [4, 6] as const) {
    const progress = status.progress(family);
    if (progress === null || progress.lastSyncedMs === 0) continue;
    const late = progress.oldestQueuedMs !== 0 && nowMs - progress.oldestQueuedMs >= timeoutMs;
    if (late) healthy = false;
    lastUpdatedMs = Math.max(lastUpdatedMs, progress.lastSyncedMs);
    families[`IPv${family}`] = { lastUpdated: time(progress.lastSyncedMs), healthy: !late };
  }
  const some = Object.keys(families).length > 0;
  return {
    lastUpdated: time(lastUpdatedMs),
    currentTime: time(nowMs),
    healthy,
    ...(some ? { status: families } : {}),
  };
}

/** There (or not needed), not being deleted, and not marked by the cluster autoscaler. */
export function nodeEligible(node: NodeStatus): boolean {
  return nodeTrouble(node) === '';
}

/** '' or why no load balancer should send to this node. */
function nodeTrouble({ name, absent, deleting, taints }: NodeStatus): string {
  if (absent) return `there is no Node ${name}, or it is not known yet`;
  if (deleting) return `Node ${name} is being deleted`;
  return taints.includes(TO_BE_DELETED_TAINT) ? `Node ${name} has the taint ${TO_BE_DELETED_TAINT}` : '';
}

/** Why the kernel is behind, or '' when it is not. */
function lateness(status: SyncStatus, health: HealthBody): string {
  if (health.healthy && status.synced()) return '';
  const late = Object.entries(health.status ?? {}).filter(([, family]) => !family.healthy);
  const waits = late.map(([family]) => `a change of ${family} waits for too long`).join(', ');
  return [waits, status.holdup()?.brief ?? ''].filter((text) => text !== '').join(': ');
}

function withReasons(body: HealthBody, reasons: readonly string[]): HealthBody {
  const given = reasons.filter((reason) => reason !== '');
  return given.length > 0 ? { ...body, reasons: given } : body;
}

export function answerHealthz(
  status: SyncStatus & Pick<AgentStatus, 'node'>,
  timeoutMs: number,
  nowMs: number,
): HealthAnswer {
  const health = assess(status, timeoutMs, nowMs);
  const trouble = nodeTrouble(status.node());
  const eligible = trouble === '';
  const ready = health.healthy && status.synced();
  const { lastUpdated, currentTime, status: families } = health;
  const code = ready && eligible ? 200 : 503;
  // kube-proxy's order of fields; `lastUpdated` of a healthy proxy is now, for readers of old releases.
  const body = {
    lastUpdated: code === 200 ? currentTime : lastUpdated,
    currentTime,
    nodeEligible: eligible,
    healthy: ready,
    ...(families === undefined ? {} : { status: families }),
  };
  return { code, body: withReasons(body, [lateness(status, health), trouble]) };
}

export function answerLivez(status: SyncStatus, timeoutMs: number, nowMs: number): HealthAnswer {
  const health = assess(status, timeoutMs, nowMs);
  if (!health.healthy) return { code: 503, body: withReasons(health, [lateness(status, health)]) };
  return { code: 200, body: { ...health, lastUpdated: health.currentTime } };
}

export interface HealthServerOptions {
  readonly bind: SocketAddress;
  readonly status: SyncStatus & Pick<AgentStatus, 'node'>;
  /** Twice the sync period, which may change while running. */
  readonly timeoutMs: () => number;
  readonly onBusy: 'retry' | 'fail';
  readonly onFailure: (failure: ListenFailure) => void;
  /** For the counters of answers. */
  readonly onAnswer: (probe: 'healthz' | 'livez', code: 200 | 503) => void;
  readonly retryMs?: number;
}

/** The server of --healthz-bind-address. */
export function serveHealth(options: HealthServerOptions): RunningServer {
  const { bind, status, onBusy, onFailure } = options;
  return serve({
    name: 'healthz',
    bind,
    wildcard: 'both',
    onBusy,
    onFailure,
    ...(options.retryMs === undefined ? {} : { retryMs: options.retryMs }),
    handler: (request, response) => {
      const path = pathOf(request);
      if (path !== '/healthz' && path !== '/livez') return replyNotFound(response);
      const probe = path === '/healthz' ? 'healthz' : 'livez';
      const answer = probe === 'healthz' ? answerHealthz : answerLivez;
      const { code, body } = answer(status, options.timeoutMs(), Date.now());
      options.onAnswer(probe, code);
      reply(response, code, 'application/json', JSON.stringify(body));
    },
  });
}

function time(ms: number): string {
  return ms === 0 ? NEVER : new Date(ms).toISOString();
}
