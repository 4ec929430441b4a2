/** The server of --metrics-bind-address: what kube-proxy serves there, under the same paths. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AgentStatus, Mode } from '../agent/status.ts';
import type { SocketAddress } from '../model/socket.ts';
import { answerLivez } from './health.ts';
import {
  type ListenFailure,
  pathOf,
  type RunningServer,
  reply,
  replyInPieces,
  replyJson,
  replyNotFound,
  serve,
} from './http.ts';
import type { Metrics } from './metrics.ts';
import { serveCpuProfile, serveHeapSnapshot } from './profile.ts';
import { answerFlagz, answerStatusz } from './zpages.ts';

export interface MetricsServerOptions {
  readonly bind: SocketAddress;
  readonly status: AgentStatus;
  readonly metrics: Metrics;
  /** The configuration in force, in kube-proxy's form (config/write.ts). */
  readonly configuration: () => Record<string, unknown>;
  /** Every flag with its value in force. */
  readonly flags: () => Readonly<Record<string, string>>;
  readonly version: string;
  readonly timeoutMs: () => number;
  readonly profiling: 'on' | 'off';
  /** PUT /debug/flags/v: changes the verbosity. */
  readonly onVerbosity: (verbosity: number) => void;
  readonly onBusy: 'retry' | 'fail';
  readonly onFailure: (failure: ListenFailure) => void;
}

const TEXT = 'text/plain; charset=utf-8';
/** For /statusz, which is not among them in kube-proxy either. */
const PATHS = ['/configz', '/flagz', '/healthz', '/livez', '/metrics', '/proxyMode'];
const DEBUG_PATHS = ['/debug/flags/v', '/debug/pprof/heap', '/debug/pprof/profile'];
const BODY_BYTES_MAX = 64;

/** kube-proxy's word for a mode, which other software compares with. */
const MODE_WORDS: Readonly<Record<Mode | '', string>> = {
  nft: 'nftables',
  ipvs: 'ipvs',
  ebpf: 'ebpf',
  '': '',
};

export function serveMetrics(options: MetricsServerOptions): RunningServer {
  return serve({
    name: 'metrics',
    bind: options.bind,
    wildcard: 'both',
    onBusy: options.onBusy,
    onFailure: options.onFailure,
    handler: (request, response) => {
      route(options, request, response).catch((error: Error) => {
        if (response.headersSent) response.destroy();
        else reply(response, 500, TEXT, `${error.message}\n`);
      });
    },
  });
}

async function route(
  options: MetricsServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { status, metrics } = options;
  const path = pathOf(request);
  switch (path) {
    case '/metrics':
      return replyInPieces(response, 200, metrics.contentType, metrics.pieces());
    case '/proxyMode': {
      const { mode, reason, switching, draining, failure } = status.mode();
      // The body is for software that knows kube-proxy's; what else there is to say goes beside it.
      response.setHeader('X-Triplane-Reason', encodeURIComponent(reason));
      if (switching !== '') response.setHeader('X-Triplane-Switching', switching);
      if (failure !== '') response.setHeader('X-Triplane-Failure', encodeURIComponent(failure));
      const rest = draining.map((one) => `${one.mode}=${one.connections}`);
      if (rest.length > 0) response.setHeader('X-Triplane-Draining', rest.join(', '));
      return reply(response, 200, TEXT, MODE_WORDS[mode]);
    }
    case '/configz':
      return replyJson(response, 200, { 'kubeproxy.config.k8s.io': options.configuration() });
    case '/flagz':
      return answerFlagz(request, response, options.flags());
    case '/statusz': {
      const paths = options.profiling === 'on' ? [...PATHS, ...DEBUG_PATHS] : PATHS;
      const { startedMs } = status;
      return answerStatusz(request, response, {
        startedMs,
        version: options.version,
        paths: paths.toSorted(),
      });
    }
    // As in kube-proxy (k8s.io/apiserver/pkg/server/healthz): that the process answers, and no more.
    case '/healthz':
      return reply(response, 200, TEXT, isVerbose(request) ? '[+]ping ok\nhealthz check passed\n' : 'ok');
    case '/healthz/ping':
      return reply(response, 200, TEXT, 'ok');
    case '/livez': {
      const { code, body } = answerLivez(status, options.timeoutMs(), Date.now());
      return replyJson(response, code, body);
    }
  }
  if (options.profiling === 'off' || !path.startsWith('/debug/')) return replyNotFound(response);
  return routeDebug(options, path, request, response);
}

function isVerbose(request: IncomingMessage): boolean {
  return new URL(request.url ?? '/', 'http://agent').searchParams.has('verbose');
}

async function routeDebug(
  options: MetricsServerOptions,
  path: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (path === '/debug/pprof/profile') return serveCpuProfile(request, response);
  if (path === '/debug/pprof/heap') return serveHeapSnapshot(response);
  if (path !== '/debug/flags/v') return replyNotFound(response);
  if (request.method !== 'PUT') return reply(response, 405, TEXT, 'PUT a number from 0 to 10\n');
  const text = await readBody(request);
  if (!/^\d{1,2}$/.test(text) || Number(text) > 10)
    return reply(response, 400, TEXT, 'PUT a number from 0 to 10\n');
  options.onVerbosity(Number(text));
  reply(response, 200, TEXT, `successfully set klog.logging.verbosity to ${text}`);
}

async function readBody(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request) {
    text += String(chunk);
    if (text.length > BODY_BYTES_MAX) break;
  }
  return text.trim();
}
