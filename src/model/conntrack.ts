/**
 * Which UDP flows a change of a service makes stale. UDP has no end of connection: a client that keeps
 * sending keeps its conntrack entry, and so its backend, or the lack of one, for ever.
 *
 * The rule is that of kube-proxy's conntrack/cleanup.go: a flow to a frontend may go on only to a backend
 * that still *serves*. That a backend left a pool is not enough: one that is terminating, or that a policy
 * or a hint has turned new flows away from, keeps what it has, as with TCP. Unlike there, a frontend that
 * is gone takes its flows along, and so does the last endpoint.
 */
import type { Backend, DesiredPort, DesiredService, Frontend } from './desired.ts';
import type { Address } from './records.ts';
import type { ServingPort } from './service.ts';

/** UDP flows to clear, matched on addresses and ports of both sides. */
export interface StaleFlow {
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

const NONE: readonly never[] = [];

function udpPorts(side: FlowSide | undefined): readonly DesiredPort[] {
  return side ? side.desired.ports.filter((port) => port.protocol === 'UDP') : NONE;
}

function samePort(port: DesiredPort): (other: DesiredPort | ServingPort) => boolean {
  return (other) => other.name === port.name && other.family === port.family;
}

function servingOf(side: FlowSide | undefined, port: DesiredPort): readonly Backend[] {
  return side?.serving.find(samePort(port))?.backends ?? NONE;
}

function findFrontend(ports: readonly DesiredPort[], wanted: Frontend): [Frontend, DesiredPort] | null {
  for (const port of ports) {
    for (const frontend of port.frontends) {
      if (frontend.address === wanted.address && frontend.port === wanted.port) return [frontend, port];
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

function backendsGone(before: readonly Backend[], after: readonly Backend[]): readonly Backend[] {
  if (before === after) return NONE;
  const key = (backend: Backend) => `${backend.address} ${backend.port}`;
  const staying = new Set(after.map(key));
  return before.filter((backend) => !staying.has(key(backend)));
}

/**
 * The flows that a change of one service makes stale. To be cleared once the kernel holds the new state,
 * or a packet in between makes the stale flow anew.
 *
 * @param previous undefined: the service had no frontend
 * @param next undefined: it has none any more
 */
export function staleFlows(previous: FlowSide | undefined, next: FlowSide | undefined): StaleFlow[] {
  const before = udpPorts(previous);
  const after = udpPorts(next);
  const stale: StaleFlow[] = [];
  for (const port of before) {
    const had = servingOf(previous, port);
    for (const frontend of port.frontends) {
      // The same address may have moved to another port of the service: what serves there counts.
      const now = findFrontend(after, frontend);
      for (const backend of backendsGone(had, now ? servingOf(next, now[1]) : NONE)) {
        stale.push({
          address: frontend.address,
          port: frontend.port,
          backend: backend.address,
          backendPort: backend.port,
        });
      }
    }
  }
  for (const port of after) {
    for (const frontend of port.frontends) {
      if (!translates(frontend, port)) continue;
      const was = findFrontend(before, frontend);
      if (was && translates(...was)) continue;
      stale.push({ address: frontend.address, port: frontend.port, backend: null, backendPort: 0 });
    }
  }
  return stale;
}
