/**
 * One dataplane after the other, without a connection being lost (docs/switching.md). To the loop it is a dataplane like
 * any other: the one that carries new connections. Behind it stand the remains of those that came before, until the last
 * of their connections has ended. Calls are carried out one at a time, in their order.
 */
import {
  type ApplyResult,
  type Carried,
  type Dataplane,
  type Degree,
  type FlowTarget,
  isSwitchable,
  type Measures,
  type Mode,
  type Remains,
  type Switchable,
  type VerifyResult,
} from '../dataplane/dataplane.ts';
import type { TrafficReader } from '../dataplane/traffic.ts';
import type { DesiredChange, DesiredState } from '../model/desired.ts';
import { TriplaneError } from '../model/errors.ts';
import { PacedTask } from '../node/paced-task.ts';
import type { Log } from './status.ts';
import { Unserved } from './unserved.ts';

/** A look at what former dataplanes still carry. */
const LOOK_TIMES = { rests: 20, delayMs: 2000 };

/** A former dataplane, and how many connections it was last seen to have. */
export interface Draining {
  readonly mode: Mode;
  readonly connections: number;
}

export interface HandoverParts {
  readonly log: Log;
  /** Opens the dataplane of a mode; throws where it cannot run. */
  readonly open: (mode: Mode) => Dataplane;
  /**
   * What a dead agent, or another proxy, has left in the kernel that another mode than this one carries: opened, as far
   * as its connections need it.
   */
  readonly predecessors: (mode: Mode, state: DesiredState) => Promise<readonly Switchable[]>;
  /** The state that the kernel is to be at. */
  readonly state: () => DesiredState;
  /** What drained goes for good, and with it what it has counted. Never rejects. */
  readonly beforeRemoval: () => Promise<void>;
  /** Another mode carries new connections now. */
  readonly onMode: () => void;
  /** The last connection of a former mode has ended. */
  readonly onDrained: () => void;
}

export interface Exchange {
  readonly from: Mode;
  readonly to: Mode;
  readonly draining: number;
  readonly durationMs: number;
}

interface Former {
  readonly remains: Remains;
  /** As of the last look. */
  carried: Carried;
}

export class Handover implements Dataplane {
  readonly #parts: HandoverParts;
  #current: Dataplane;
  #formers: Former[] = [];
  /** The first full state is in the kernel. */
  #started = false;
  #switching: Mode | null = null;
  #turn: Promise<unknown> = Promise.resolve();
  readonly #looking = new PacedTask(() => this.#look(), LOOK_TIMES);
  #closed = false;
  readonly #unserved = new Unserved();

  constructor(parts: HandoverParts, first: Dataplane) {
    this.#parts = parts;
    this.#current = first;
  }

  get mode(): Mode {
    return this.#current.mode;
  }

  /** The one in charge. */
  get current(): Dataplane {
    return this.#current;
  }

  degrees(): readonly Degree[] {
    return this.#current.degrees?.() ?? [];
  }

  measures(): Measures {
    return this.#current.measures?.() ?? { tables: [], packets: {} };
  }

  /** The readers of what is counted of traffic: of the one in charge, and of those that drain. */
  trafficReaders(): TrafficReader[] {
    const all = [this.#current, ...this.#formers.map(({ remains }) => remains)];
    return all.flatMap((one) => one.traffic?.() ?? []);
  }

  /** The mode that a switch is under way to. */
  get switching(): Mode | null {
    return this.#switching;
  }

  get draining(): readonly Draining[] {
    return this.#formers.map(({ remains, carried }) => ({
      mode: remains.mode,
      connections: carried.connections,
    }));
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#turn.then(work);
    this.#turn = next.catch(() => {});
    return next;
  }

  start(state: DesiredState): Promise<ApplyResult> {
    return this.#alone(async () => {
      if (this.#started || !isSwitchable(this.#current)) {
        const result = await this.#current.start(state);
        this.#unserved.started(result);
        this.#started = true;
        return result;
      }
      return this.#startAfter(this.#current, state);
    });
  }

  /** The first start: others may have carried traffic here until now. */
  async #startAfter(next: Switchable, state: DesiredState): Promise<ApplyResult> {
    const olds = await this.#parts.predecessors(next.mode, state);
    try {
      const result = await this.#follow(next, olds, state);
      this.#unserved.started(result);
      this.#started = true;
      await this.#settle();
      return result;
    } catch (error) {
      // The loop tries again from the beginning; what was found is found again.
      for (const old of olds) await old.close();
      throw error;
    }
  }

  /** `next` leads, and each of `olds` is retired. */
  async #follow(next: Switchable, olds: readonly Switchable[], state: DesiredState): Promise<ApplyResult> {
    if (olds.length === 0) return next.start(state);
    for (const old of olds) await old.introduce();
    const remembered = async () => (await Promise.all(olds.map((old) => old.affinities()))).flat();
    const result = await next.prepare(state, remembered);
    this.#tell(next, 'complete, and not yet in charge');
    for (const old of olds) await this.#carryAffinities(old, next);
    next.lead();
    this.#tell(next, 'in charge of new connections');
    for (const old of olds) await this.#retire(old, state, next.mode);
    return result;
  }

  /** One line for each step, so that whoever looks on sees where a switch is. */
  #tell({ mode }: Dataplane, step: string): void {
    this.#parts.log.debug({ mode }, step);
  }

  async #carryAffinities(old: Switchable, next: Switchable): Promise<void> {
    const affinities = await old.affinities();
    await next.learnAffinities(affinities);
    const { mode } = next;
    this.#parts.log.debug({ mode, from: old.mode, clients: affinities.length }, 'affinities carried over');
  }

  async #retire(old: Switchable, state: DesiredState, next: Mode): Promise<number> {
    const remains = await old.retire(state, next);
    const former: Former = { remains, carried: { connections: 0, ended: false } };
    this.#formers.push(former);
    former.carried = await remains.carried();
    const { connections } = former.carried;
    this.#parts.log.info(
      { mode: old.mode, connections },
      'takes no new connections any more; those it has stay on it until they end',
    );
    return connections;
  }

  apply(change: DesiredChange, state: DesiredState): Promise<ApplyResult> {
    return this.#alone(async () => {
      const result = await this.#current.apply(change, state);
      this.#unserved.applied(change, result);
      for (const { remains } of this.#formers) {
        try {
          await remains.apply(change, state);
        } catch (error) {
          this.#parts.log.warn({ err: error, mode: remains.mode }, 'what drains could not follow a change');
        }
      }
      return result;
    });
  }

  /** Of the one in charge; where that is another one in the end, nothing is known of it. */
  survey(): Promise<boolean> | null {
    const current = this.#current;
    return current.survey?.()?.then((same) => same && current === this.#current) ?? null;
  }

  verify(state: DesiredState): Promise<VerifyResult> {
    return this.#alone(() => this.#current.verify(state));
  }

  /** When no switch is under way. */
  async settled(): Promise<void> {
    while (this.#switching !== null) await this.#exchanging.catch(() => {});
  }
  #exchanging: Promise<unknown> = Promise.resolve();

  /** Runs `work` while no switch is under way; one that is asked for meanwhile waits for its end. */
  async undisturbed<T>(work: () => Promise<T>): Promise<T> {
    while (this.#switching !== null) await this.#exchanging.catch(() => {});
    const running = work();
    this.#undisturbed = Promise.allSettled([this.#undisturbed, running]);
    return running;
  }
  #undisturbed: Promise<unknown> = Promise.resolve();

  /**
   * Moves to another mode. Whatever goes wrong leaves the present one in charge, and is thrown: TP_BUSY while another
   * switch is under way, TP_NO_FEATURE where the mode cannot run or connections could not be kept.
   */
  async switchTo(mode: Mode): Promise<Exchange> {
    if (this.#switching !== null)
      throw new TriplaneError('TP_BUSY', `a switch to mode ${this.#switching} is under way`);
    const began = performance.now();
    const from = this.mode;
    if (mode === from) return { from, to: mode, draining: 0, durationMs: 0 };
    this.#switching = mode;
    try {
      this.#exchanging = this.#exchange(mode);
      const draining = (await this.#exchanging) as number;
      return { from, to: mode, draining, durationMs: performance.now() - began };
    } finally {
      this.#switching = null;
      if (this.mode !== from) this.#parts.onMode();
    }
  }

  async #exchange(mode: Mode): Promise<number> {
    await this.#undisturbed;
    if (await this.#alone(() => this.#exchangeUnstarted(mode))) return 0;
    const old = this.#switchable(this.#current);
    const opened = this.#parts.open(mode);
    if (!isSwitchable(opened)) await opened.close();
    const next = this.#switchable(opened);
    try {
      await this.#alone(() => this.#takeBack(mode));
      // The long part, while the old one goes on following changes.
      await this.#alone(() => old.introduce());
      this.#tell(old, 'its connections are known to connection tracking');
      const state = snapshot(this.#parts.state());
      this.#unserved.requireNoMore(mode, await next.prepare(state, () => old.affinities()));
      this.#tell(next, 'complete, and not yet in charge');
      return await this.#alone(() => this.#exchangeNow(old, next));
    } catch (error) {
      await this.#alone(() => this.#giveUp(old, next));
      throw error;
    }
  }

  /** Before the first start there is nothing to hand over. */
  async #exchangeUnstarted(mode: Mode): Promise<boolean> {
    if (this.#started) return false;
    const old = this.#current;
    this.#current = this.#parts.open(mode);
    await old.close();
    return true;
  }

  #switchable(dataplane: Dataplane): Switchable {
    if (isSwitchable(dataplane)) return dataplane;
    throw new TriplaneError('TP_NO_FEATURE', `mode ${dataplane.mode} cannot be switched to or from`);
  }

  async #exchangeNow(old: Switchable, next: Switchable): Promise<number> {
    if (this.#closed) throw new TriplaneError('TP_BUSY', 'the agent is ending');
    const state = this.#parts.state();
    const result = await next.prepare(state, () => old.affinities());
    this.#unserved.requireNoMore(next.mode, result);
    await this.#carryAffinities(old, next);
    next.lead();
    this.#tell(next, 'in charge of new connections');
    const draining = await this.#retire(old, state, next.mode);
    this.#current = next;
    this.#unserved.started(result);
    await this.#settle();
    return draining;
  }

  /** What drains of the mode itself serves again with everything it has. */
  async #takeBack(mode: Mode): Promise<void> {
    const own = this.#formers.filter(({ remains }) => remains.mode === mode);
    if (own.length > 0) await this.#parts.beforeRemoval();
    this.#formers = this.#formers.filter(({ remains }) => remains.mode !== mode);
    for (const { remains } of own) await remains.close();
  }

  /** Frontends with connections that drain and that netfilter sees untranslated. */
  untranslated(): readonly FlowTarget[] {
    return this.#formers.flatMap(({ remains }) => remains.untranslated?.() ?? []);
  }

  /** `next` may have taken connections, or got nowhere at all; `old` may have lost some of what it had. */
  async #giveUp(old: Switchable, next: Switchable): Promise<void> {
    const { log, state } = this.#parts;
    try {
      await this.#retire(next, state(), old.mode);
    } catch (error) {
      log.debug({ err: error, mode: next.mode }, 'a failed switch has left nothing that could drain');
      await next.close().catch(() => {});
    }
    if (this.#closed) return;
    await old
      .start(state())
      .catch((error: unknown) =>
        log.error({ err: error, mode: old.mode }, 'the mode in charge needs repair'),
      );
    await this.#settle();
  }

  /** Looks after what drains, now and then. */
  async #settle(): Promise<void> {
    if (this.#formers.length === 0) await this.#leaveAlone();
    else this.#looking.request();
  }

  /** What is left behind is found again by the next switch, or the next agent: no reason for a step to fail. */
  async #leaveAlone(): Promise<void> {
    const current = this.#current;
    if (!isSwitchable(current)) return;
    await current
      .alone()
      .catch((err: unknown) =>
        this.#parts.log.warn({ err, mode: current.mode }, 'what another mode needed could not be removed'),
      );
  }

  async #look(): Promise<void> {
    try {
      for (const former of this.#formers) former.carried = await former.remains.carried();
      await this.#alone(() => this.#removeEnded());
    } catch (error) {
      this.#parts.log.warn({ err: error }, 'what drains could not be looked at; trying again');
    }
    if (this.#formers.length > 0) this.#looking.request();
  }

  async #removeEnded(): Promise<void> {
    // Whoever comes next may need what a former one still has, the keeper above all.
    if (this.#closed || this.#switching !== null) return;
    const ended = this.#formers.filter(({ carried }) => carried.ended);
    for (const former of ended) {
      await this.#parts.beforeRemoval();
      await former.remains.remove();
      this.#formers = this.#formers.filter((one) => one !== former);
      this.#parts.log.info(
        { mode: former.remains.mode },
        'its last connection has ended; what was left of it is removed',
      );
      this.#parts.onDrained();
    }
    if (this.#formers.length === 0) await this.#leaveAlone();
  }

  async close(): Promise<void> {
    this.#closed = true;
    const looked = this.#looking.close();
    await this.#turn;
    await looked;
    for (const { remains } of this.#formers) await remains.close();
    await this.#current.close();
  }
}

/** As it is now: the map that it looks into goes on changing. */
function snapshot({ node, services }: DesiredState): DesiredState {
  return { node, services: new Map(services) };
}
