/**
 * Tells the cluster which mode this node runs, as annotations of its Node object, so that `kubectl get nodes` can show
 * it. Best effort: an agent that may not write them, or has nobody to write to, does its work all the same.
 */
import type { Log, ModeStatus } from './status.ts';

/** Not below triplane.dev/, which is for what people set. */
const PREFIX = 'status.triplane.dev/';
const RETRY_MIN_MS = 30_000;
const RETRY_MAX_MS = 600_000;
/** Of a value: the reason may name much. */
const VALUE_MAX = 1024;

export type Annotations = Readonly<Record<string, string>>;

export interface NodeNoteParts {
  readonly log: Log;
  /** Rejects with an error whose `status` is 403 when this agent may not. */
  readonly annotate: (annotations: Annotations) => Promise<void>;
}

export function annotationsOf({ mode, reason, degrees }: ModeStatus): Annotations {
  const lesser = degrees.map(({ feature, device, got }) =>
    device === '' ? `${feature}=${got}` : `${feature}/${device}=${got}`,
  );
  return {
    [`${PREFIX}proxy-mode`]: mode,
    [`${PREFIX}proxy-mode-reason`]: reason.slice(0, VALUE_MAX),
    [`${PREFIX}proxy-mode-degrees`]: lesser.join(',').slice(0, VALUE_MAX),
  };
}

export class NodeNote {
  readonly #parts: NodeNoteParts;
  #wanted = '';
  /** What was last written, or given up. */
  #settled = '';
  #writing = false;
  #retryMs = RETRY_MIN_MS;
  #timer: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(parts: NodeNoteParts) {
    this.#parts = parts;
  }

  /** Writes what differs from what was written last; in the background. */
  tell(status: ModeStatus): void {
    this.#wanted = JSON.stringify(annotationsOf(status));
    this.#write();
  }

  #write(): void {
    if (this.#closed || this.#writing || this.#timer || this.#wanted === this.#settled) return;
    this.#writing = true;
    const text = this.#wanted;
    this.#parts.annotate(JSON.parse(text) as Annotations).then(
      () => this.#done(text),
      (error: unknown) => this.#failed(text, error),
    );
  }

  #done(text: string): void {
    this.#writing = false;
    this.#settled = text;
    this.#retryMs = RETRY_MIN_MS;
    this.#write();
  }

  #failed(text: string, error: unknown): void {
    if (this.#closed) return;
    if ((error as { status?: number }).status === 403) {
      const message = 'this agent may not annotate its Node (patch nodes): its mode is told elsewhere';
      this.#parts.log.info({}, message);
      this.#done(text);
      return;
    }
    this.#writing = false;
    this.#parts.log.debug({ err: error, retryMs: this.#retryMs }, 'the Node could not be annotated');
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#write();
    }, this.#retryMs).unref();
    this.#retryMs = Math.min(RETRY_MAX_MS, this.#retryMs * 2);
  }

  close(): void {
    this.#closed = true;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
