/**
 * One HTTP server for each service with a healthCheckNodePort (pkg/proxy/healthcheck/service_health.go): cloud
 * load balancers ask it whether this node has local backends.
 */
import type { HealthCheckPlan, HealthCheckService } from '../agent/status.ts';
import { familyOf } from '../model/address.ts';
import type { Address, ObjectKey } from '../model/records.ts';
import { type ListenFailure, type RunningServer, reply, serve } from './http.ts';

export interface ServiceHealthOptions {
  /** As /livez: whether the proxy keeps up. */
  readonly proxyHealthy: () => boolean;
  /** A port cannot be had; it is tried again. kube-proxy sends the event FailedToStartServiceHealthcheck. */
  readonly onFailure: (service: ObjectKey, failure: ListenFailure) => void;
  readonly retryMs?: number;
}

interface Open {
  readonly port: number;
  readonly servers: Map<Address, RunningServer>;
}

/** Keeps the set of servers that the last plan asks for. */
export class ServiceHealthServers {
  readonly #options: ServiceHealthOptions;
  readonly #open = new Map<ObjectKey, Open>();
  #wanted: ReadonlyMap<ObjectKey, HealthCheckService> = new Map();
  #work: Promise<void> = Promise.resolve();

  constructor(options: ServiceHealthOptions) {
    this.#options = options;
  }

  /**
   * Opens, closes and moves servers as the plan says. Counts are answered from the new plan at once; the
   * promise resolves when closed ports are free and new servers were started.
   */
  apply(plan: HealthCheckPlan): Promise<void> {
    this.#wanted = new Map(plan.services.map((service) => [service.service, service]));
    const addresses = [...plan.addresses];
    const wanted = this.#wanted;
    this.#work = this.#work.then(() => this.#reconcile(wanted, addresses));
    return this.#work;
  }

  /** Resolves when every server that is wanted listens, for tests. */
  async listening(): Promise<void> {
    await this.#work;
    const servers = [...this.#open.values()].flatMap((open) => [...open.servers.values()]);
    await Promise.all(servers.map((server) => server.listening));
  }

  async close(): Promise<void> {
    await this.apply({ services: [], addresses: [] });
  }

  async #reconcile(
    wanted: ReadonlyMap<ObjectKey, HealthCheckService>,
    addresses: readonly Address[],
  ): Promise<void> {
    const closing: Promise<void>[] = [];
    for (const [key, open] of this.#open) {
      const moved = wanted.get(key)?.port !== open.port;
      for (const [address, server] of open.servers) {
        if (!moved && addresses.includes(address)) continue;
        closing.push(server.close());
        open.servers.delete(address);
      }
      if (moved) this.#open.delete(key);
    }
    // A port may go from one service to another: it must be free first.
    await Promise.all(closing);
    const holders = new Map([...this.#open].map(([key, { port }]) => [port, key]));
    for (const [key, service] of wanted) {
      const holder = holders.get(service.port) ?? key;
      if (holder !== key) {
        this.#options.onFailure(key, { message: takenBy(key, service.port, holder), next: 'again' });
        continue;
      }
      holders.set(service.port, key);
      const open = this.#open.get(key) ?? { port: service.port, servers: new Map() };
      this.#open.set(key, open);
      for (const address of addresses) {
        if (!open.servers.has(address)) open.servers.set(address, this.#serve(key, address, service.port));
      }
    }
  }

  #serve(key: ObjectKey, address: Address, port: number): RunningServer {
    // A balancer's traffic of one family must not come here for the endpoints of the other.
    const family = familyOf(address);
    return serve({
      name: nameOf(key, port),
      bind: { address, port },
      wildcard: 'own',
      onBusy: 'retry',
      onFailure: (failure) => this.#options.onFailure(key, failure),
      ...(this.#options.retryMs === undefined ? {} : { retryMs: this.#options.retryMs }),
      handler: (_request, response) => {
        const count = this.#wanted.get(key)?.localReady[family] ?? 0;
        const healthy = this.#options.proxyHealthy();
        response.setHeader('X-Load-Balancing-Endpoint-Weight', String(count));
        const code = count > 0 && healthy ? 200 : 503;
        reply(response, code, 'application/json', serviceBody(key, count, healthy));
      },
    });
  }
}

/** Only manifests can say so: the API server gives a port to one service. */
function takenBy(key: ObjectKey, port: number, holder: ObjectKey): string {
  return `${nameOf(key, port)}: service ${holder} has it`;
}

/** As kube-proxy says it: what its event and ours have in common. */
function nameOf(key: ObjectKey, port: number): string {
  return `healthcheck "${key}" on port ${port}`;
}

/** kube-proxy's body, byte for byte: some health checkers match on text. */
export function serviceBody(key: ObjectKey, localEndpoints: number, healthy: boolean): string {
  const slash = key.indexOf('/');
  const body = {
    service: { namespace: key.slice(0, slash), name: key.slice(slash + 1) },
    localEndpoints,
    serviceProxyHealthy: healthy,
  };
  return JSON.stringify(body, null, '\t');
}
