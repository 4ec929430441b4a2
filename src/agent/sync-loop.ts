/**
 * The loop: changes of the model become changes of the kernel, one at a time and at the loop's own pace.
 * What arrives while the kernel is busy is applied together afterwards. The pace is that of kube-proxy's
 * BoundedFrequencyRunner: the least time runs from the end of one application to the start of the next, a
 * failed one included.
 */
import type { ApplyResult, Dataplane, Refusal } from '../dataplane/dataplane.ts';
import type { ModelChange, Trigger } from '../model/change.ts';
import type { ClusterModel } from '../model/cluster.ts';
import type { StaleFlow } from '../model/conntrack.ts';
import { type ErrorCode, TriplaneError } from '../model/errors.ts';
import type { Family, ObjectKey } from '../model/records.ts';
import { Pace } from '../node/pace.ts';
import { Comparing } from './comparing.ts';
import { Pending } from './pending.ts';
import type { FamilyProgress, Log, SyncEvent } from './status.ts';

/** After a failure the loop waits so long, doubling up to the most. */
const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 30_000;
/** Foreign changes come in bursts; one look answers for all within this time. */
const VERIFY_DEBOUNCE_MS = 50;
/** Node's timers hold no more (24.8 days) and fire at once when asked to. */
const TIMER_MAX_MS = 2 ** 31 - 1;
const NEVER = Number.POSITIVE_INFINITY;
/**
 * Clearing flows walks the kernel's whole table (4 ms for 262,144 buckets). It rests so many times as long: what
 * comes sooner is cleared together.
 */
const CLEAR_RESTS = 20;

export interface SyncTimes {
  /** Between two applications of changes, at least. 0: none. */
  readonly minSyncPeriodMs: number;
  /** Between two comparisons with the kernel, at least. */
  readonly syncPeriodMs: number;
}

export interface SyncParts {
  readonly model: Pick<ClusterModel, 'isDirty' | 'produce' | 'state'>;
  readonly log: Log;
  readonly families: readonly Family[];
  /** Clears flows from conntrack; resolves to those that could not be cleared and are tried again later. */
  readonly clearFlows: (flows: readonly StaleFlow[]) => Promise<readonly StaleFlow[]>;
  /** Flows that a predecessor left and that are stale by the state at the first start. */
  readonly leftoverFlows: () => Promise<readonly StaleFlow[]>;
  /** Everything that came out of one produce(), before it is applied. */
  readonly onProduced: (change: ModelChange) => void;
  readonly onSync: (event: SyncEvent) => void;
  readonly onRepair: (repaired: readonly string[]) => void;
  /** The first full state cannot be had here whatever is tried (library, feature, privilege); the loop has stopped. */
  readonly onHopeless: (error: TriplaneError) => void;
  /** What the kernel refuses at this moment, whole: called when it may have changed. */
  readonly onRefusals: (refusals: readonly Refusal[]) => void;
}

const HOPELESS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'TP_NO_LIBRARY',
  'TP_NO_FEATURE',
  'TP_NO_PRIVILEGE',
]);

function isHopeless(error: unknown): error is TriplaneError {
  return error instanceof TriplaneError && HOPELESS.has(error.code);
}

type Task = 'start' | 'apply' | 'verify' | 'clear';

/** `dueMs`, like every time in here that is compared, by the clock that nobody sets: performance.now(). */
interface Due {
  readonly task: Task;
  readonly dueMs: number;
}

export class SyncLoop {
  private readonly parts: SyncParts;
  private dataplane: Dataplane;
  private times: SyncTimes;
  private open = false;
  private stopped = false;
  private running: Promise<void> | null = null;
  private wantStart = true;
  private verifyDueMs = NEVER;
  private lastTask: Task = 'start';
  private timer: NodeJS.Timeout | undefined;
  private timerDueMs = NEVER;
  private verifyTimer: NodeJS.Timeout | undefined;
  private readonly comparing = new Comparing(() => this.verifyAfter(0));
  private retryMs = 0;
  private retryDueMs = -NEVER;
  private lastAppliedMs = -NEVER;
  private pending = new Pending();
  /** Flows that could not be cleared when their change was in the kernel, or were not, since others just had been. */
  private uncleared: readonly StaleFlow[] = [];
  private readonly clearPace = new Pace({ rests: CLEAR_RESTS });
  /** When what was put off is due. What failed waits for a change or a comparison. */
  private clearDueMs = NEVER;
  private refused = new Map<ObjectKey, Refusal>();
  private lastSyncedMs = 0;
  private lastQueuedMs = 0;
  private oldestQueuedMs = 0;
  /** Of the changes that are being applied. */
  private oldestAppliedMs = 0;
  /** The kernel holds the first full state. */
  synced = false;
  /** Why the last attempt failed; '' when it did not. */
  lastError = '';

  constructor(parts: SyncParts, dataplane: Dataplane, times: SyncTimes) {
    this.parts = parts;
    this.dataplane = dataplane;
    this.times = times;
  }

  /** The first full state is known: from now on the kernel follows. Nothing is touched before. */
  begin(): void {
    if (this.open || this.stopped) return;
    this.open = true;
    this.oldestQueuedMs ||= Date.now();
    this.verifyEverySyncPeriod();
    this.arm();
  }

  /** The model may have changed. */
  changed(): void {
    if (!this.parts.model.isDirty) return;
    this.lastQueuedMs = Date.now();
    this.oldestQueuedMs ||= this.lastQueuedMs;
    this.arm();
  }

  /** The dataplane has other settings: it is started again, which changes only what differs. */
  restart(): void {
    this.wantStart = true;
    this.oldestQueuedMs ||= Date.now();
    this.arm();
  }

  /** Somebody else may have changed our objects, or it is time to look. */
  verifySoon(): void {
    if (!this.open) return;
    this.comparing.ask();
    this.verifyAfter(VERIFY_DEBOUNCE_MS);
  }

  private verifyAfter(delayMs: number): void {
    this.verifyDueMs = Math.min(this.verifyDueMs, performance.now() + delayMs);
    this.arm();
  }

  setTimes(times: SyncTimes): void {
    const { syncPeriodMs } = this.times;
    this.times = times;
    if (!this.open || this.stopped) return;
    if (times.syncPeriodMs !== syncPeriodMs) this.verifyEverySyncPeriod();
    this.arm();
  }

  progress(): FamilyProgress {
    return {
      lastSyncedMs: this.lastSyncedMs,
      oldestQueuedMs: this.oldestAppliedMs || this.oldestQueuedMs,
      lastQueuedMs: this.lastQueuedMs,
    };
  }

  /** Ends after what is under way; the kernel stays as it is. */
  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    clearInterval(this.verifyTimer);
    await this.running;
    await this.comparing.ended();
    if (this.clearDueMs !== NEVER) await this.clearFlows([]);
  }

  private verifyEverySyncPeriod(): void {
    clearInterval(this.verifyTimer);
    this.verifyTimer = setInterval(
      () => this.verifyAfter(0),
      Math.min(this.times.syncPeriodMs, TIMER_MAX_MS),
    );
    this.verifyTimer.unref();
  }

  /** Makes sure that the loop wakes when the next task is due. */
  private arm(): void {
    if (!this.open || this.stopped || this.running) return;
    const next = this.nextTask();
    if (next === null) return;
    const now = performance.now();
    const dueMs = Math.max(now, next.dueMs);
    // An earlier timer stays: whoever moved it with each change would never get to work under a stream of them.
    if (this.timer !== undefined && this.timerDueMs <= dueMs) return;
    clearTimeout(this.timer);
    this.timerDueMs = dueMs;
    // A timer of 0 ms still lets everything that is ready in this turn of the event loop arrive first.
    this.timer = setTimeout(() => this.fire(), Math.min(Math.ceil(dueMs - now), TIMER_MAX_MS));
  }

  private fire(): void {
    this.timer = undefined;
    // pump() begins only after `running` is set: what it calls may call changed().
    this.running = Promise.resolve()
      .then(() => this.pump())
      .finally(() => {
        this.running = null;
        this.arm();
      });
  }

  /**
   * null: there is nothing to do. When changes and a comparison are both due they take turns, so that neither
   * starves the other.
   */
  private nextTask(): Due | null {
    const { isDirty } = this.parts.model;
    const soonestMs = Math.max(this.retryDueMs, this.lastAppliedMs + this.times.minSyncPeriodMs);
    if (this.wantStart) return { task: 'start', dueMs: soonestMs };
    const apply: Due = { task: 'apply', dueMs: isDirty || !this.pending.isEmpty ? soonestMs : NEVER };
    const verify: Due = { task: 'verify', dueMs: this.verifyDueMs };
    const bothDue = Math.max(apply.dueMs, verify.dueMs) <= performance.now();
    const verifyFirst = bothDue ? this.lastTask !== 'verify' : verify.dueMs < apply.dueMs;
    const next = verifyFirst ? verify : apply;
    // Not later than due, also under a stream of changes: each of them clears what is due.
    if (this.clearDueMs < next.dueMs) return { task: 'clear', dueMs: this.clearDueMs };
    return next.dueMs === NEVER ? null : next;
  }

  /** Everything that is due now. */
  private async pump(): Promise<void> {
    for (;;) {
      const next = this.nextTask();
      if (this.stopped || next === null || next.dueMs > performance.now()) return;
      await this.attempt(next.task);
    }
  }

  private async attempt(task: Task): Promise<void> {
    const began = performance.now();
    this.lastTask = task;
    try {
      await this.perform(task, began);
      this.retryMs = 0;
      this.lastError = '';
    } catch (error) {
      this.failed(task, began, error);
    } finally {
      this.oldestAppliedMs = 0;
      if (task === 'start' || task === 'apply') this.lastAppliedMs = performance.now();
    }
  }

  private perform(task: Task, began: number): Promise<void> {
    if (task === 'clear') return this.clearFlows([]);
    return task === 'verify' ? this.verify() : this.bring(task, began);
  }

  private failed(task: Task, began: number, error: unknown): void {
    this.wantStart = true;
    this.lastError = error instanceof Error ? error.message : String(error);
    // Also where no change was waiting, as when a repair failed: health has to see that one is now.
    this.oldestQueuedMs = this.oldestAppliedMs || this.oldestQueuedMs || Date.now();
    this.parts.onSync(this.event(task, began, [], null));
    // What was there once may come back; what never was will not.
    if (!this.synced && isHopeless(error)) {
      this.stopped = true;
      this.parts.onHopeless(error);
      return;
    }
    this.retryMs = Math.min(RETRY_MAX_MS, Math.max(RETRY_MIN_MS, this.retryMs * 2));
    this.retryDueMs = performance.now() + this.retryMs;
    this.parts.log.error(
      { err: error, task, retryMs: this.retryMs },
      'the kernel could not be brought up to date; trying again',
    );
  }

  /** Brings everything that has changed into the kernel, or, at the start and after a failure, everything. */
  private async bring(task: 'start' | 'apply', began: number): Promise<void> {
    const { model } = this.parts;
    this.oldestAppliedMs = this.oldestQueuedMs;
    this.oldestQueuedMs = 0;
    const change = model.produce();
    this.pending.take(change);
    this.parts.onProduced(change);
    const work = this.pending;
    this.pending = new Pending();
    try {
      const { state } = model;
      // Before, not after: what is asked for meanwhile stays asked for, and a failure asks again.
      if (task === 'start') this.wantStart = false;
      const result = await (task === 'start'
        ? this.dataplane.start(state)
        : this.dataplane.apply(work.changeOf(state), state));
      this.parts.log.debug({ operations: result.operations }, 'the kernel has acknowledged the changes');
      this.noteRefusals(result.refusals, task === 'start' ? null : work);
      // While nobody looked, backends may have gone: no change that we make says so.
      if (!this.synced) work.addFlows(await this.parts.leftoverFlows());
      await this.clearFlows(work.flows);
      this.synced = true;
      this.oldestAppliedMs = 0;
      this.lastSyncedMs = Date.now();
      this.parts.onSync(this.event(task, began, work.triggers, result));
    } catch (error) {
      work.append(this.pending);
      this.pending = work;
      throw error;
    }
  }

  /** What was not cleared before is tried along with `flows`. */
  private async clearFlows(flows: readonly StaleFlow[]): Promise<void> {
    if (this.uncleared.length > 0) {
      const all = new Pending();
      all.addFlows(this.uncleared);
      all.addFlows(flows);
      flows = all.flows;
    }
    if (flows.length === 0) return;
    if (this.clearPace.restMs > 0 && !this.stopped) {
      this.uncleared = flows;
      this.clearDueMs = this.clearPace.soonestMs;
      return;
    }
    this.clearDueMs = NEVER;
    this.uncleared = await this.clearPace.turn(() => this.parts.clearFlows(flows));
  }

  private async verify(): Promise<void> {
    this.verifyDueMs = NEVER;
    const { state } = this.parts.model;
    await this.clearFlows([]);
    await this.retryRefused();
    const repaired = await this.comparing.turn(this.dataplane, state, this.times.syncPeriodMs);
    if (repaired.length > 0) this.parts.onRepair(repaired);
    if (this.oldestQueuedMs === 0) this.lastSyncedMs = Date.now();
  }

  private async retryRefused(): Promise<void> {
    if (this.refused.size === 0) return;
    const { state } = this.parts.model;
    const set = [...this.refused.keys()].flatMap((key) => state.services.get(key) ?? []);
    const change = { set, remove: [] };
    const withNode = this.refused.has('') ? { ...change, node: state.node } : change;
    const result = await this.dataplane.apply(withNode, state);
    this.noteRefusals(result.refusals, null);
  }

  /** `work` null: the answer speaks of everything. */
  private noteRefusals(refusals: readonly Refusal[], work: Pending | null): void {
    const before = this.refused.size;
    if (work === null) this.refused.clear();
    else {
      for (const key of work.keys) this.refused.delete(key);
      if (work.hasNode) this.refused.delete('');
    }
    for (const refusal of refusals) this.refused.set(refusal.service, refusal);
    if (before + this.refused.size > 0) this.parts.onRefusals([...this.refused.values()]);
  }

  /** `result` null: it failed. */
  private event(
    task: Task,
    began: number,
    triggers: readonly Trigger[],
    result: ApplyResult | null,
  ): SyncEvent {
    return {
      scope: task === 'apply' ? 'partial' : 'full',
      families: this.parts.families,
      durationMs: performance.now() - began,
      ok: result !== null,
      mode: this.dataplane.mode,
      operations: result?.operations ?? 0,
      refusals: result?.refusals.length ?? 0,
      triggersMs: triggers.map((trigger) => trigger.triggerMs),
    };
  }
}
