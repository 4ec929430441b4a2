/** What the model has to complain about; the same shape as a source's problems, so that both go one way. */
import { BACKENDS_MAX } from './endpoints.ts';
import type { Entry } from './entry.ts';
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
function listSome(items: readonly string[]): string {
  if (items.length <= NAMED_MAX) return items.join(', ');
  return `${items.slice(0, NAMED_MAX).join(', ')} and ${items.length - NAMED_MAX} more`;
}

/**
 * What is wrong with a service as a whole, under the code of the worst; reason '': nothing.
 *
 * @param lost one line for each frontend that others have
 */
export function faultsOf(
  { beyond, refused }: Pick<Entry, 'beyond' | 'refused'>,
  lost: readonly string[],
): Pick<ModelProblem, 'code' | 'reason'> {
  const many = beyond > 0 ? [`${beyond} endpoints beyond ${BACKENDS_MAX} get no connections`] : [];
  const outside = refused.map((address) => `external IP ${address} is in none of the allowed ranges`);
  const code = outside.length > 0 ? 'TP_EXTERNAL_IP' : 'TP_FRONTEND_TAKEN';
  return {
    code: beyond > 0 ? 'TP_TOO_MANY_ENDPOINTS' : code,
    reason: listSome([...many, ...outside, ...lost]),
  };
}
