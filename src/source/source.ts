/**
 * What every source of cluster state offers. The agent does not know which one it has.
 */
import type { ErrorCode } from '../model/errors.ts';
import type { RecordChange } from '../model/records.ts';

/** An object that was refused alone. The record it had before (if any) stays in force. */
export interface Problem {
  readonly code: ErrorCode;
  /** What: "Service default/web", "file services.yaml document 3". */
  readonly object: string;
  /** One line, without a newline, that names the field and the reason. */
  readonly reason: string;
  /** Where: a file or a URL; '' when that says nothing. */
  readonly origin: string;
}

export interface SourceListener {
  /**
   * Changes in the order in which they happened. A batch is what became known at once (a file, a page, a
   * watch event); the agent coalesces across batches.
   */
  onChanges(changes: readonly RecordChange[]): void;
  /** Called once, after the changes that make up the first full state have been delivered. */
  onSynced(): void;
  onProblem(problem: Problem): void;
  /** A problem that was reported for this object is gone. */
  onProblemGone(object: string): void;
}

/** For /healthz, metrics and the log: one row for each thing that is watched. */
export interface SourceHealth {
  readonly what: string;
  readonly synced: boolean;
  /** Milliseconds since the epoch of the last sign of life; 0: none yet. */
  readonly lastContactMs: number;
  readonly failures: number;
  readonly lastError: string;
}

export interface Source {
  /** Starts delivering to the listener. Throws TriplaneError when it cannot even start (file missing, kubeconfig unusable). */
  start(listener: SourceListener): Promise<void>;
  health(): readonly SourceHealth[];
  /**
   * Sets annotations of this node's Node object. Rejects when that cannot be done, with `status` 403 when it may not.
   * Not there: the source has nowhere to write to.
   */
  annotateNode?(annotations: Readonly<Record<string, string>>): Promise<void>;
  stop(): Promise<void>;
}
