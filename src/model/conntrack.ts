/**
 * Which flows in conntrack a change of a service makes stale. UDP has no end of connection: a client that keeps
 * sending keeps its conntrack entry, and so its backend, or the lack of one, for ever. A TCP client whose SYN
 * nobody answers is no better off while it tries again from the same port; one that was answered is left alone.
 *
 * The rule is that of kube-proxy's conntrack/cleanup.go, which knows it for UDP only: a flow to a frontend may go
 * on only to a backend that still *serves*. That a backend left a pool is not enough: one that is terminating, or
 * that a policy or a hint has turned new flows away from, keeps what it has. Unlike there, a frontend that
 * is gone takes its UDP flows along, and so does the last endpoint.
 */
import type { Backend, DesiredPort, DesiredService, Frontend } from './desired.ts';
import type { Address } from './records.ts';
import type { ServingPort } from './service.ts';

/** Protocols whose flows can become stale. */
export type FlowProtocol = 'TCP' | 'UDP';

/** Flows to clear, matched on addresses and ports of both sides; of TCP only those that nobody has answered. */
export interface StaleFlow {
  readonly protocol: FlowProtocol;
  /** The original destination. */
  readonly address: Address;
  readonly port: number;
  /** Where they were translated to; null: flows to the frontend that were not translated at all. */
  readonly backend: Address | null;
  /** 0 when backend is null. */
  readonly backendPort: number;
}

/** One service as it was or will be: what new flows get, and which backends may keep their flows. */
export interface FlowSide {
  readonly desired: DesiredService;
  readonly serving: readonly ServingPort[];
}

/** One side of a flow. */
export interface Endpoint {
  readonly address: Address;
  readonly port: number;
}

const NONE: readonly never[] = [];

function portsOf(side: FlowSide | undefined, protocol: FlowProtocol): readonly DesiredPort[] {
  return side ? side.desired.ports.filter((port) => port.protocol === protocol) : NONE;
}

/** The backends of one port that may keep their flows. */
export function servingOf(serving: readonly ServingPort[], port: DesiredPort): readonly Backend[] {
  const { name, family, protocol } = port;
  return (
    serving.find((one) => one.name === name && one.family === family && one.protocol === protocol)
      ?.backends ?? NONE
  );
}

/** The frontend of these ports at an address and port, with its port. */
export function findFrontend(
  ports: readonly DesiredPort[],
  wanted: Endpoint,
): [Frontend, DesiredPort] | null {
  for (const port of ports) {
    for (const frontend of port.frontends) {
      if (sameEndpoint(frontend, wanted)) return [frontend, port];
    }
  }
  return null;
}

/** Whether some traffic to the frontend is translated. */
function translates(frontend: Frontend, port: DesiredPort): boolean {
  const hasBackend = (answer: Frontend['inside']) =>
    (answer === 'cluster' && port.cluster.length > 0) || (answer === 'local' && port.local.length > 0);
  return hasBackend(frontend.inside) || hasBackend(frontend.outside);
}

function sameEndpoint(a: Endpoint, b: Endpoint): boolean {
  return a.address === b.address && a.port === b.port;
}

function backendsGone(before: readonly Backend[], after: readonly Backend[]): readonly Backend[] {
  if (before === after) return NONE;
  // Most changes are of one backend among many: what is equal at both ends needs no set.
  let start = 0;
  while (start < before.length && start < after.length && sameEndpoint(before[start]!, after[start]!))
    start++;
  let end = 0;
  const most = Math.min(before.length, after.length) - start;
  while (end < most && sameEndpoint(before[before.length - 1 - end]!, after[after.length - 1 - end]!)) end++;
  const left = before.slice(start, before.length - end);
  if (left.length === 0) return NONE;
  const key = (backend: Backend) => `${backend.address} ${backend.port}`;
  const staying = new Set(after.slice(start, after.length - end).map(key));
  return left.filter((backend) => !staying.has(key(backend)));
}

function* changedFlows(
  protocol: FlowProtocol,
  previous: FlowSide | undefined,
  next: FlowSide | undefined,
): Generator<StaleFlow> {
  const before = portsOf(previous, protocol);
  const after = portsOf(next, protocol);
  for (const port of before) {
    const had = servingOf(previous!.serving, port);
    for (const { address, port: number } of port.frontends) {
      // The same address may have moved to another port of the service: what serves there counts.
      const now = findFrontend(after, { address, port: number });
      for (const backend of backendsGone(had, now ? servingOf(next!.serving, now[1]) : NONE)) {
        yield { protocol, address, port: number, backend: backend.address, backendPort: backend.port };
      }
    }
  }
  for (const port of after) {
    for (const frontend of port.frontends) {
      if (!translates(frontend, port)) continue;
      const was = findFrontend(before, frontend);
      if (was && translates(...was)) continue;
      yield { protocol, address: frontend.address, port: frontend.port, backend: null, backendPort: 0 };
    }
  }
}

/**
 * The UDP flows that a change of one service makes stale. To be cleared once the kernel holds the new state,
 * or a packet in between makes the stale flow anew.
 *
 * @param previous undefined: the service had no frontend
 * @param next undefined: it has none any more
 */
export function staleFlows(previous: FlowSide | undefined, next: FlowSide | undefined): StaleFlow[] {
  return [...changedFlows('UDP', previous, next)];
}

/**
 * Whether a change may leave a TCP client that nobody has answered with a backend that is gone, or without one.
 * Endpoints of TCP services come and go all the time while such clients are few: their flows are looked for
 * together, some time after, and told by leadsAstray().
 */
export function mayStrand(previous: FlowSide | undefined, next: FlowSide | undefined): boolean {
  return changedFlows('TCP', previous, next).next().done === false;
}

/**
 * Whether a flow to this frontend leads where no new one would.
 *
 * @param serving the backends that may keep their flows
 * @param answers where the flow's answers come from: a backend, or the frontend's own address when untranslated
 */
export function leadsAstray(
  frontend: Frontend,
  port: DesiredPort,
  serving: readonly Backend[],
  answers: Endpoint,
): boolean {
  if (serving.some((backend) => sameEndpoint(backend, answers))) return false;
  return !sameEndpoint(frontend, answers) || translates(frontend, port);
}
