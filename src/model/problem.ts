/** What the model has to complain about; the same shape as a source's problems, so that both go one way. */
import type { ErrorCode } from './errors.ts';

export interface ModelProblem {
  readonly code: ErrorCode;
  /** "Service default/web". At most one problem of a code for each object. */
  readonly object: string;
  /** One line. */
  readonly reason: string;
  /** Always '': the model does not know where an object came from. */
  readonly origin: string;
}

const NAMED_MAX = 3;

/** "a, b, c and 4 more". */
export function listSome(items: readonly string[]): string {
  if (items.length <= NAMED_MAX) return items.join(', ');
  return `${items.slice(0, NAMED_MAX).join(', ')} and ${items.length - NAMED_MAX} more`;
}
