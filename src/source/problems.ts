/** The problems that stand at the moment, so that a listener hears of each once, and once when it is gone. */
import type { Problem, SourceListener } from './source.ts';

/** Beyond this, problems of further objects are not remembered and not reported: something else is wrong then. */
const PROBLEMS_MAX = 10_000;

export class ProblemBook {
  readonly #listener: SourceListener;
  readonly #standing = new Map<string, Problem>();

  constructor(listener: SourceListener) {
    this.#listener = listener;
  }

  /** Reports the problem unless it stands already, word for word. It replaces another one of the same object. */
  report(problem: Problem): void {
    const known = this.#standing.get(problem.object);
    if (
      known &&
      known.reason === problem.reason &&
      known.code === problem.code &&
      known.origin === problem.origin
    ) {
      return;
    }
    if (!known && this.#standing.size >= PROBLEMS_MAX) return;
    this.#standing.set(problem.object, problem);
    this.#listener.onProblem(problem);
  }

  /** The object has no problem (any more). */
  clear(object: string): void {
    if (this.#standing.delete(object)) this.#listener.onProblemGone(object);
  }
}
