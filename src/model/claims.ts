/**
 * Who gets a frontend that several services claim: a ClusterIP, which the cluster itself assigned, wins over
 * external addresses, which people write (CVE-2020-8554: nobody may take over a ClusterIP by naming it as an
 * external address), and those over NodePorts; then the
 * service that was created first, then the key that comes first. The outcome depends on what is claimed
 * now, never on the order in which the claims came.
 */
import type { Frontend } from './desired.ts';
import type { ObjectKey } from './records.ts';
import { frontendKey } from './service.ts';

/** A service that claims frontends. Told apart by identity. */
export interface Claimant {
  readonly key: ObjectKey;
  /** When the service was created, in milliseconds since the epoch. */
  readonly createdMs: number;
}

function older<C extends Claimant>(a: C, b: C): C {
  if (a.createdMs !== b.createdMs) return a.createdMs < b.createdMs ? a : b;
  return a.key < b.key ? a : b;
}

/** By frontend key. Nearly every frontend has one claimant, so a list is made only for contested ones. */
type Index<C> = Map<string, C | C[]>;

function add<C>(index: Index<C>, key: string, claimant: C): void {
  const held = index.get(key);
  if (held === undefined) index.set(key, claimant);
  else if (Array.isArray(held)) held.push(claimant);
  else index.set(key, [held, claimant]);
}

function remove<C>(index: Index<C>, key: string, claimant: C): void {
  const held = index.get(key);
  if (!Array.isArray(held)) {
    index.delete(key);
    return;
  }
  const rest = held.filter((other) => other !== claimant);
  index.set(key, rest.length === 1 ? rest[0]! : rest);
}

/** The frontends that all services claim. A service never claims the same frontend twice. */
export class Claims<C extends Claimant> {
  readonly #clusterIPs: Index<C> = new Map();
  readonly #external: Index<C> = new Map();
  readonly #nodePorts: Index<C> = new Map();
  /** In the order of precedence. */
  readonly #indexes: readonly Index<C>[] = [this.#clusterIPs, this.#external, this.#nodePorts];

  /**
   * Replaces the claims of one service, whose createdMs is the new one already.
   *
   * @returns the other services whose outcome may be another now; a service may be named twice
   */
  replace(claimant: C, before: readonly Frontend[], after: readonly Frontend[]): C[] {
    const touched: C[] = [];
    for (const frontend of before) {
      const key = frontendKey(frontend.address, frontend.protocol, frontend.port);
      remove(this.#indexOf(frontend), key, claimant);
      this.#collectRivals(key, claimant, touched);
    }
    for (const frontend of after) {
      const key = frontendKey(frontend.address, frontend.protocol, frontend.port);
      add(this.#indexOf(frontend), key, claimant);
      this.#collectRivals(key, claimant, touched);
    }
    return touched;
  }

  /** The service that gets this frontend, which somebody claims. */
  winner(frontend: Frontend): C {
    return this.find(frontend)!;
  }

  /** The service that gets what is at this address, protocol and port; undefined: nobody claims it. */
  find(at: Pick<Frontend, 'address' | 'protocol' | 'port'>): C | undefined {
    const key = frontendKey(at.address, at.protocol, at.port);
    const held = this.#clusterIPs.get(key) ?? this.#external.get(key) ?? this.#nodePorts.get(key);
    return Array.isArray(held) ? held.reduce(older) : held;
  }

  #indexOf(frontend: Frontend): Index<C> {
    if (frontend.kind === 'ClusterIP') return this.#clusterIPs;
    return frontend.kind === 'NodePort' ? this.#nodePorts : this.#external;
  }

  #collectRivals(key: string, claimant: C, touched: C[]): void {
    for (const index of this.#indexes) {
      const held = index.get(key);
      if (held === undefined || held === claimant) continue;
      for (const rival of Array.isArray(held) ? held : [held]) if (rival !== claimant) touched.push(rival);
    }
  }
}
