/** Objects that are refused at this moment: each is logged once when it comes and once when it goes. */
import type { Refusal } from '../dataplane/dataplane.ts';
import type { ErrorCode } from '../model/errors.ts';
import type { ObjectKey } from '../model/records.ts';
import type { Log, Problem } from './status.ts';

/** What says by itself what failed: no object was refused. */
const FAILURES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'TP_API',
  'TP_NOT_KEPT',
  'TP_TOO_MANY_ENDPOINTS',
]);

/** Each has at most one problem with an object; two may have one with the same object, and each takes back its own. */
export type Reporter = 'source' | 'model';

export class ProblemLog {
  private readonly log: Log;
  private readonly current: Readonly<Record<Reporter, Map<string, Problem>>> = {
    source: new Map(),
    model: new Map(),
  };
  private refusals: ReadonlyMap<ObjectKey, Problem> = new Map();

  constructor(log: Log) {
    this.log = log;
  }

  report(reporter: Reporter, problem: Problem): void {
    const { code, object, reason, origin } = problem;
    const known = this.current[reporter].get(object);
    if (known?.reason === reason && known.code === code) return;
    this.current[reporter].set(object, problem);
    const text = FAILURES.has(code) ? reason : `refused: ${reason}`;
    this.log.warn(origin === '' ? { code, object } : { code, object, origin }, text);
  }

  gone(reporter: Reporter, object: string): void {
    const problem = this.current[reporter].get(object);
    if (!problem) return;
    this.current[reporter].delete(object);
    const { code } = problem;
    this.log.info({ code, object }, FAILURES.has(code) ? 'in order again' : 'no longer refused');
  }

  /** All that the kernel refuses now. */
  setRefusals(refusals: readonly Refusal[]): void {
    const before = this.refusals;
    const now = new Map(refusals.map((refusal) => [refusal.service, problemOf(refusal)]));
    for (const [service, { code, object, reason }] of now) {
      if (before.get(service)?.reason !== reason) this.log.error({ code, object }, reason);
    }
    for (const [service, { code, object }] of before) {
      if (!now.has(service)) this.log.info({ code, object }, 'no longer refused');
    }
    this.refusals = now;
  }

  all(): Problem[] {
    const { source, model } = this.current;
    return [...source.values(), ...model.values(), ...this.refusals.values()];
  }
}

function problemOf({ service, reason }: Refusal): Problem {
  const object = service === '' ? 'the node’s own rules' : `Service ${service}`;
  return { code: 'TP_KERNEL_REFUSED', object, reason, origin: '' };
}
