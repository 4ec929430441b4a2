/**
 * The loop: changes of the model become changes of the kernel, one at a time and at the loop's own pace.
 * What arrives while the kernel is busy is applied together afterwards.
 */
import type { Dataplane, Refusal } from '../dataplane/dataplane.ts';
import type { ModelChange, Trigger } from '../model/change.ts';
import type { ClusterModel } from '../model/cluster.ts';
import type { StaleFlow } from '../model/conntrack.ts';
import type { DesiredChange } from '../model/desired.ts';
import type { Family, ObjectKey } from '../model/records.ts';
import type { FamilyProgress, Log, SyncEvent } from './status.ts';

/** After a failure the loop waits so long, doubling up to the most. */
const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 30_000;
/** Foreign changes come in bursts; one look answers for all within this time. */
const VERIFY_DEBOUNCE_MS = 50;

export interface SyncTimes {
  /** Between two applications of changes, at least. 0: none. */
  readonly minSyncPeriodMs: number;
  /** Between two comparisons with the kernel. */
  readonly syncPeriodMs: number;
}

export interface SyncParts {
  readonly model: ClusterModel;
  readonly log: Log;
  readonly families: readonly Family[];
  /** Clears flows from conntrack; resolves to how many there were. */
  readonly clearFlows: (flows: readonly StaleFlow[]) => Promise<void>;
  /** Everything that came out of one produce(), before it is applied. */
  readonly onProduced: (change: ModelChange) => void;
  readonly onSync: (event: SyncEvent) => void;
  readonly onRepair: (repaired: readonly string[]) => void;
  /** What the kernel refuses at this moment, whole: called when it changed. */
  readonly onRefusals: (refusals: readonly Refusal[]) => void;
}

interface Pending {
  readonly set: Set<ObjectKey>;
  readonly remove: Set<ObjectKey>;
  node: boolean;
  flows: StaleFlow[];
  triggers: Trigger[];
}

type Task = 'start' | 'apply' | 'verify';

export class SyncLoop {
  private readonly parts: SyncParts;
  private dataplane: Dataplane;
  private times: SyncTimes;
  private open = false;
  private stopped = false;
  private running: Promise<void> | null = null;
  private wantStart = true;
  private wantVerify = false;
  private timer: NodeJS.Timeout | undefined;
  private dueMs = 0;
  private verifyTimer: NodeJS.Timeout | undefined;
  private retryMs = 0;
  private lastEndMs = 0;
  private pending: Pending = noPending();
  private refused = new Map<ObjectKey, Refusal>();
  private lastSyncedMs = 0;
  private lastQueuedMs = 0;
  private oldestQueuedMs = 0;
  /** The kernel holds the first full state. */
  synced = false;

  constructor(parts: SyncParts, dataplane: Dataplane, times: SyncTimes) {
    this.parts = parts;
    this.dataplane = dataplane;
    this.times = times;
  }

  /** The first full state is known: from now on the kernel follows. Nothing is touched before. */
  begin(): void {
    this.open = true;
    this.verifyTimer = setInterval(() => this.verifySoon(), this.times.syncPeriodMs);
    this.verifyTimer.unref();
    this.changed();
  }

  /** The model may have changed. */
  changed(): void {
    const now = Date.now();
    this.lastQueuedMs = now;
    if (this.oldestQueuedMs === 0) this.oldestQueuedMs = now;
    if (!this.open) return;
    this.schedule(Math.max(0, this.lastEndMs + this.times.minSyncPeriodMs - now));
  }

  /** Somebody else may have changed our objects, or it is time to look. */
  verifySoon(): void {
    if (!this.open) return;
    this.wantVerify = true;
    this.schedule(VERIFY_DEBOUNCE_MS);
  }

  setTimes(times: SyncTimes): void {
    this.times = times;
    if (!this.open) return;
    clearInterval(this.verifyTimer);
    this.verifyTimer = setInterval(() => this.verifySoon(), times.syncPeriodMs);
    this.verifyTimer.unref();
  }

  progress(): FamilyProgress {
    return {
      lastSyncedMs: this.lastSyncedMs,
      oldestQueuedMs: this.oldestQueuedMs,
      lastQueuedMs: this.lastQueuedMs,
    };
  }

  /** Ends after what is under way; the kernel stays as it is. */
  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    clearInterval(this.verifyTimer);
    await this.running;
  }

  private schedule(delayMs: number): void {
    if (this.stopped || this.running) return;
    // While failing, changes do not shorten the wait.
    const wait = Math.max(delayMs, this.retryMs);
    const due = Date.now() + wait;
    if (this.timer !== undefined && this.dueMs <= due) return;
    clearTimeout(this.timer);
    this.dueMs = due;
    // A timer of 0 ms still lets everything that is ready in this turn of the event loop arrive first.
    this.timer = setTimeout(() => this.fire(), wait);
  }

  private fire(): void {
    this.timer = undefined;
    this.running = this.pump().finally(() => {
      this.running = null;
      this.lastEndMs = Date.now();
      if (this.nextTask() !== null)
        this.schedule(this.wantVerify ? VERIFY_DEBOUNCE_MS : this.times.minSyncPeriodMs);
    });
  }

  private nextTask(): Task | null {
    if (this.wantStart) return 'start';
    if (this.parts.model.isDirty || hasWork(this.pending)) return 'apply';
    return this.wantVerify ? 'verify' : null;
  }

  /** One round: everything that is due now, then the comparison if somebody wants it. */
  private async pump(): Promise<void> {
    for (let task = this.nextTask(); task !== null && !this.stopped; task = this.nextTask()) {
      const began = performance.now();
      try {
        await this.perform(task, began);
        this.retryMs = 0;
      } catch (error) {
        this.retryMs = Math.min(RETRY_MAX_MS, Math.max(RETRY_MIN_MS, this.retryMs * 2));
        this.parts.log.error(
          { err: error, task, retryMs: this.retryMs },
          'the kernel could not be brought up to date; trying again',
        );
        this.wantStart = true;
        this.parts.onSync(this.event(task, began, 0, [], 'failed'));
        return;
      }
      if (task === 'apply' && this.times.minSyncPeriodMs > 0) return;
    }
  }

  private async perform(task: Task, began: number): Promise<void> {
    if (task === 'verify') return this.verify();
    const startOver = task === 'start';
    const queuedBefore = this.oldestQueuedMs;
    this.oldestQueuedMs = 0;
    this.take(this.parts.model.produce());
    const work = this.pending;
    this.pending = noPending();
    try {
      const { state } = this.parts.model;
      const result = startOver
        ? await this.dataplane.start(state)
        : await this.dataplane.apply(this.changeOf(work), state);
      if (startOver) this.wantStart = false;
      this.noteRefusals(result.refusals, startOver ? null : work);
      await this.parts.clearFlows(work.flows);
      this.synced = true;
      this.lastSyncedMs = Date.now();
      this.parts.onSync(this.event(task, began, result.operations, work.triggers, 'done'));
    } catch (error) {
      this.pending = joined(work, this.pending);
      this.oldestQueuedMs = queuedBefore || this.oldestQueuedMs;
      throw error;
    }
  }

  private take(change: ModelChange): void {
    const { pending } = this;
    for (const service of change.set) {
      pending.set.add(service.key);
      pending.remove.delete(service.key);
    }
    for (const key of change.remove) {
      pending.remove.add(key);
      pending.set.delete(key);
    }
    if (change.node) pending.node = true;
    pending.flows.push(...change.staleFlows);
    pending.triggers.push(...change.triggers);
    this.parts.onProduced(change);
  }

  private changeOf(work: Pending): DesiredChange {
    const { state } = this.parts.model;
    const set = [...work.set].flatMap((key) => state.services.get(key) ?? []);
    const change = { set, remove: [...work.remove] };
    return work.node ? { ...change, node: state.node } : change;
  }

  private async verify(): Promise<void> {
    this.wantVerify = false;
    const { state } = this.parts.model;
    if (this.refused.size > 0) {
      const again = [...this.refused.keys()].flatMap((key) => state.services.get(key) ?? []);
      const result = await this.dataplane.apply({ set: again, remove: [] }, state);
      this.noteRefusals(result.refusals, null);
    }
    const { repaired } = await this.dataplane.verify(state);
    if (repaired.length > 0) this.parts.onRepair(repaired);
    if (this.oldestQueuedMs === 0) this.lastSyncedMs = Date.now();
  }

  /** `work` null: the answer speaks of everything. */
  private noteRefusals(refusals: readonly Refusal[], work: Pending | null): void {
    const before = this.refused.size;
    if (work === null) this.refused.clear();
    else for (const key of [...work.set, ...work.remove]) this.refused.delete(key);
    for (const refusal of refusals) this.refused.set(refusal.service, refusal);
    if (before + this.refused.size > 0) this.parts.onRefusals([...this.refused.values()]);
  }

  private event(
    task: Task,
    began: number,
    operations: number,
    triggers: readonly Trigger[],
    outcome: 'done' | 'failed',
  ): SyncEvent {
    return {
      scope: task === 'apply' ? 'partial' : 'full',
      families: this.parts.families,
      durationMs: performance.now() - began,
      ok: outcome === 'done',
      mode: this.dataplane.mode,
      operations,
      refusals: this.refused.size,
      triggersMs: triggers.map((trigger) => trigger.triggerMs),
    };
  }
}

function noPending(): Pending {
  return { set: new Set(), remove: new Set(), node: false, flows: [], triggers: [] };
}

function hasWork(pending: Pending): boolean {
  return pending.set.size + pending.remove.size + pending.flows.length > 0 || pending.node;
}

/** What was not done and what came meanwhile; the later word on a service counts. */
function joined(first: Pending, later: Pending): Pending {
  const all = noPending();
  for (const part of [first, later]) {
    for (const key of part.set) {
      all.set.add(key);
      all.remove.delete(key);
    }
    for (const key of part.remove) {
      all.remove.add(key);
      all.set.delete(key);
    }
    all.node ||= part.node;
    all.flows.push(...part.flows);
    all.triggers.push(...part.triggers);
  }
  return all;
}
