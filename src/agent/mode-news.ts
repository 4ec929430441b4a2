/** Who is told of a mode and its degrees without asking: the log, and the Node object where there is one. */
import type { Source } from '../source/source.ts';
import { NodeNote } from './node-note.ts';
import type { Log, ModeStatus } from './status.ts';

export class ModeNews {
  readonly #log: Log;
  readonly #note: NodeNote | null;
  #told = '[]';

  constructor(log: Log, source: Source) {
    this.#log = log;
    const write = source.annotateNode?.bind(source);
    this.#note = write ? new NodeNote({ log, annotate: write }) : null;
  }

  /** Tells what has changed since the last time. */
  tell(status: ModeStatus): void {
    const lesser = status.degrees.filter(({ reason }) => reason !== '');
    const text = JSON.stringify(lesser);
    if (text !== this.#told) this.#log.info({ degrees: lesser }, 'the mode does without');
    this.#told = text;
    this.#note?.tell(status);
  }

  close(): void {
    this.#note?.close();
  }
}
