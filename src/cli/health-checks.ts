/** The health check ports of services, and what the cluster hears of one that cannot be had. */
import type { HealthCheckPlan, Log, RunningAgent } from '../agent/status.ts';
import type { ObjectKey } from '../model/records.ts';
import { assess } from '../observe/health.ts';
import { ServiceHealthServers } from '../observe/service-health.ts';

export interface HealthChecksContext {
  readonly agent: Pick<RunningAgent, 'status' | 'announce'>;
  readonly log: Pick<Log, 'error' | 'debug'>;
  /** After how many milliseconds a queued change is late. */
  readonly timeoutMs: () => number;
  /** How long until a port that is taken is tried again. Default: as kube-proxy's servers, 5 s. */
  readonly retryMs?: number;
}

/** Serves what the agent plans, from now on. Returns how to end that. */
export function startHealthChecks(context: HealthChecksContext): () => Promise<void> {
  const { agent, log, timeoutMs } = context;
  const { status } = agent;
  /**
   * What was said of a service: a port is tried again every 5 s, the cluster hears of it once. All of it, since each
   * address of the node has a failure of its own, and they take turns.
   */
  const said = new Map<ObjectKey, Set<string>>();
  const servers = new ServiceHealthServers({
    ...(context.retryMs === undefined ? {} : { retryMs: context.retryMs }),
    proxyHealthy: () => assess(status, timeoutMs(), Date.now()).healthy,
    onFailure: (service, { message }) => {
      const before = said.get(service) ?? new Set();
      if (before.has(message)) {
        log.debug({ service }, message);
        return;
      }
      log.error({ service }, message);
      said.set(service, before.add(message));
      agent.announce({
        about: { kind: 'Service', key: service },
        ...{ type: 'Warning', reason: 'FailedToStartServiceHealthcheck', action: 'Listen' },
        // kube-proxy's words up to the reason: runbooks and alerts look for them.
        note: `node ${status.node().name} failed to start ${message}`,
      });
    },
  });
  const apply = (plan: HealthCheckPlan): void => {
    const planned = new Set(plan.services.map(({ service }) => service));
    for (const service of said.keys()) if (!planned.has(service)) said.delete(service);
    servers.apply(plan).catch((error: Error) => log.error({}, `health checks of services: ${error.message}`));
  };
  const end = status.events.onHealthChecks.on(apply);
  apply(status.healthChecks());
  return async () => {
    end();
    await servers.close();
  };
}
