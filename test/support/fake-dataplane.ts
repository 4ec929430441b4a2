/**
 * A dataplane without a kernel. It holds what it was given, enforces the contract of Dataplane (a breach is
 * thrown and remembered), and can be slow, fail half-way, refuse services and be tampered with.
 */
import type { ApplyResult, Dataplane, Refusal, VerifyResult } from '../../src/dataplane/dataplane.ts';
import type { DesiredChange, DesiredNode, DesiredService, DesiredState } from '../../src/model/desired.ts';
import type { ObjectKey } from '../../src/model/records.ts';

export interface FakeCall {
  readonly what: 'start' | 'apply' | 'verify' | 'survey';
  /** performance.now(). */
  readonly beganMs: number;
  readonly endedMs: number;
  readonly outcome: 'done' | 'failed';
  /** Services that apply() was given. */
  readonly keys: readonly ObjectKey[];
}

export class FakeDataplane implements Dataplane {
  readonly mode = 'nft';
  /** What the "kernel" holds now. */
  readonly held = new Map<ObjectKey, DesiredService>();
  node: DesiredNode | null = null;
  readonly calls: FakeCall[] = [];
  /** Breaches of the contract, one line each. */
  readonly breaches: string[] = [];
  /** Services that the kernel will not take; '' for the node's own state. */
  readonly refused = new Set<ObjectKey>();
  /** So many of the next calls fail, after doing part of their work. */
  failures = 0;
  error: () => Error = () => new Error('the fake kernel fails, as the test wants it');
  /** How long each call takes. */
  slownessMs = 0;
  /** How long a survey takes; null: there is none. */
  surveyMs: number | null = null;
  closed = false;
  #busy: FakeCall['what'] | '' = '';
  /** The last call that changes something went well: apply() and verify() may build on it. */
  #trusted = false;
  /** What this side believes that it applied, refusals taken out. */
  readonly #applied = new Map<ObjectKey, DesiredService>();
  #appliedNode: DesiredNode | null = null;

  start(state: DesiredState): Promise<ApplyResult> {
    return this.#call('start', [], () => {
      let operations = 0;
      const refusals: Refusal[] = [];
      const known = new Set([...this.held.keys(), ...this.#applied.keys()]);
      for (const key of known) if (!state.services.has(key)) operations += this.#put(key, null);
      for (const [key, service] of state.services) operations += this.#offer(key, service, refusals);
      operations += this.#offerNode(state.node, refusals);
      this.#trusted = true;
      return { operations, refusals };
    });
  }

  apply(change: DesiredChange, state: DesiredState): Promise<ApplyResult> {
    const keys = [...change.set.map(({ key }) => key), ...change.remove];
    return this.#call('apply', keys, () => {
      this.#must(this.#trusted, 'apply() before start(), or after a failure without one');
      this.#must(new Set(keys).size === keys.length, 'apply() names a service twice');
      let operations = 0;
      const refusals: Refusal[] = [];
      for (const key of change.remove) {
        this.#must(!state.services.has(key), `apply() removes ${key}, which the state has`);
        operations += this.#put(key, null);
      }
      for (const service of change.set) {
        this.#must(state.services.get(service.key) === service, `apply() sets an old ${service.key}`);
        operations += this.#offer(service.key, service, refusals);
      }
      if (change.node) {
        this.#must(change.node === state.node, 'apply() sets an old node');
        operations += this.#offerNode(change.node, refusals);
      }
      return { operations, refusals };
    });
  }

  verify(_state: DesiredState): Promise<VerifyResult> {
    return this.#call('verify', [], () => {
      this.#must(this.#trusted, 'verify() before start(), or after a failure without one');
      const repaired: string[] = [];
      for (const key of new Set([...this.held.keys(), ...this.#applied.keys()])) {
        const wanted = this.#applied.get(key);
        if (this.held.get(key) === wanted) continue;
        repaired.push(key);
        if (wanted) this.held.set(key, wanted);
        else this.held.delete(key);
      }
      this.node = this.#appliedNode;
      return { repaired };
    });
  }

  survey(): Promise<boolean> | null {
    return this.surveyMs === null ? null : this.#survey(this.surveyMs);
  }

  async #survey(lengthMs: number): Promise<boolean> {
    this.#must(!this.closed, 'survey() after close()');
    const beganMs = performance.now();
    const isSame = () => Array.from(this.#applied).every(([key, wanted]) => this.held.get(key) === wanted);
    const wasSame = isSame();
    await new Promise((resolve) => setTimeout(resolve, lengthMs));
    const isSteady = this.callsOf('start', 'apply').every(({ endedMs }) => endedMs <= beganMs);
    this.calls.push({
      what: 'survey',
      beganMs,
      endedMs: performance.now(),
      outcome: 'done',
      keys: [],
    });
    return isSteady && wasSame && isSame() && this.held.size === this.#applied.size;
  }

  async close(): Promise<void> {
    this.#must(this.#busy === '', 'close() during a call');
    this.closed = true;
  }

  /** Somebody else empties the table. */
  flush(): void {
    this.held.clear();
  }

  callsOf(...what: readonly FakeCall['what'][]): FakeCall[] {
    return this.calls.filter((call) => what.includes(call.what));
  }

  async #call<T>(what: FakeCall['what'], keys: readonly ObjectKey[], work: () => T): Promise<T> {
    this.#must(this.#busy === '', `${what}() during ${this.#busy}()`);
    this.#must(!this.closed, `${what}() after close()`);
    this.#busy = what;
    const beganMs = performance.now();
    let outcome: FakeCall['outcome'] = 'failed';
    try {
      // The real one is never done within the turn of the event loop in which it is called.
      // (Not timers/promises: tests move the clock of the plain one.)
      await (this.slownessMs > 0
        ? new Promise((resolve) => setTimeout(resolve, this.slownessMs))
        : Promise.resolve());
      if (this.failures > 0) {
        this.failures--;
        this.#trusted = false;
        // Part of it may be done: here, the first service is lost.
        const first = this.held.keys().next();
        if (!first.done) this.held.delete(first.value);
        throw this.error();
      }
      const result = work();
      outcome = 'done';
      return result;
    } finally {
      this.#busy = '';
      this.calls.push({ what, beganMs, endedMs: performance.now(), outcome, keys });
    }
  }

  #offer(key: ObjectKey, service: DesiredService, refusals: Refusal[]): number {
    if (!this.refused.has(key)) return this.#put(key, service);
    refusals.push({ service: key, reason: 'the fake kernel does not like it' });
    return 0;
  }

  #offerNode(node: DesiredNode, refusals: Refusal[]): number {
    if (this.refused.has('')) {
      refusals.push({ service: '', reason: 'the fake kernel does not like it' });
      return 0;
    }
    const differs = this.node !== node;
    this.node = node;
    this.#appliedNode = node;
    return differs ? 1 : 0;
  }

  #put(key: ObjectKey, service: DesiredService | null): number {
    const differs = this.held.get(key) !== (service ?? undefined);
    for (const map of [this.held, this.#applied]) {
      if (service) map.set(key, service);
      else map.delete(key);
    }
    return differs ? 1 : 0;
  }

  #must(holds: boolean, breach: string): void {
    if (holds) return;
    this.breaches.push(breach);
    throw new Error(`breach of the contract: ${breach}`);
  }
}
