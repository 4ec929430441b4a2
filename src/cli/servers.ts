/** The servers beside an agent: health, health checks of services, metrics, admin socket. */
import type { Log, RunningAgent } from '../agent/status.ts';
import type { Config } from '../config/config.ts';
import { TriplaneError } from '../model/errors.ts';
import { keepAdmin } from '../observe/admin-keeper.ts';
import { serveHealth } from '../observe/health.ts';
import type { ListenFailure } from '../observe/http.ts';
import { createMetrics } from '../observe/metrics.ts';
import { serveMetrics } from '../observe/metrics-server.ts';
import { startHealthChecks } from './health-checks.ts';

export interface ServerContext {
  readonly agent: RunningAgent;
  readonly log: Log;
  readonly version: string;
  /** The Config in force: it may change while running. */
  readonly config: () => Config;
  /** The same in kube-proxy's form, for /configz. */
  readonly configuration: () => Record<string, unknown>;
  /** Every flag with its value in force, for /flagz. */
  readonly flags: () => Readonly<Record<string, string>>;
  readonly onVerbosity: (verbosity: number) => void;
}

export interface Servers {
  /** Rejects when a server cannot listen and --bind-address-hard-fail is set. Otherwise it stays pending. */
  readonly failed: Promise<never>;
  close(): Promise<void>;
}

/** Starts them all. Throws TriplaneError when the admin socket cannot be had. */
export async function startServers(context: ServerContext): Promise<Servers> {
  const { agent, log, version } = context;
  const { status } = agent;
  const { healthzBind, metricsBind, bindAddressHardFail, adminSocket, profiling } = context.config();
  const closers: (() => Promise<void>)[] = [];
  let fail: (error: Error) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {});
  const onFailureOf = (reason: 'FailedToStartProxierHealthcheck' | 'FailedToStartMetricServer') => {
    let last = '';
    return ({ message, next }: ListenFailure): void => {
      const level = message === last ? 'debug' : 'error';
      last = message;
      log[level]({}, next === 'again' ? `${message}; trying again every 5 s` : message);
      if (next === 'again') return;
      const about = { kind: 'Node', name: status.node().name } as const;
      agent.announce({ about, type: 'Warning', reason, action: 'StartKubeProxy', note: message });
      fail(new TriplaneError('TP_BAD_FLAG', `${message} (--bind-address-hard-fail)`));
    };
  };
  const onBusy = bindAddressHardFail ? 'fail' : 'retry';
  // kube-proxy: a change that waits longer than two sync periods is late.
  const timeoutMs = (): number => 2 * context.config().syncPeriodMs;

  // First what may be refused, so that nothing has to be undone.
  if (adminSocket !== '') {
    const { control } = agent;
    const admin = await keepAdmin({ socketPath: adminSocket, status, control, version, log });
    closers.push(() => admin.close());
  }
  const metrics = createMetrics(status, version);
  closers.push(async () => metrics.close());
  if (healthzBind !== null) {
    const onAnswer = metrics.countProbe;
    const onFailure = onFailureOf('FailedToStartProxierHealthcheck');
    closers.push(serveHealth({ bind: healthzBind, status, timeoutMs, onBusy, onFailure, onAnswer }).close);
  }
  if (metricsBind !== null) {
    const { configuration, flags, onVerbosity } = context;
    const server = serveMetrics({
      bind: metricsBind,
      status,
      metrics,
      configuration,
      flags,
      version,
      timeoutMs,
      onVerbosity,
      onBusy,
      onFailure: onFailureOf('FailedToStartMetricServer'),
      profiling: profiling ? 'on' : 'off',
    });
    closers.push(server.close);
  }
  closers.push(startHealthChecks({ agent, log, timeoutMs }));
  return {
    failed,
    close: async () => {
      await Promise.all(closers.map((close) => close()));
    },
  };
}
