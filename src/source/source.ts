/**
 * What every source of cluster state offers. The agent does not know which one it has.
 */
import type { ErrorCode } from '../model/errors.ts';
import type { ObjectKey, RecordChange } from '../model/records.ts';

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

/** One request to the API server, for the metrics that client-go has, too. */
export interface RequestEvent {
  readonly method: 'GET' | 'POST' | 'PATCH';
  readonly verb: 'list' | 'watch' | 'create' | 'patch';
  /** The HTTP status; 0: there was no answer. */
  readonly status: number;
  /** Until the head of the answer, or its failure. */
  readonly durationMs: number;
  readonly host: string;
}

/** Something that the users of the cluster should see (events.k8s.io/v1); the words are kube-proxy's. */
export interface ClusterEvent {
  readonly about:
    | { readonly kind: 'Node'; readonly name: string }
    | { readonly kind: 'Service'; readonly key: ObjectKey };
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly action: string;
  /** For people; cut after 1,000 characters. */
  readonly note: string;
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
  /** A request to the API server was answered or failed. */
  onRequest?(request: RequestEvent): void;
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
  /** Tells the cluster, in the background; a source without a cluster has nobody to tell. Never throws. */
  announce(event: ClusterEvent): void;
  stop(): Promise<void>;
}
