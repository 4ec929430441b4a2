/** Objects that are refused at this moment: each is logged once when it comes and once when it goes. */
import type { Refusal } from '../dataplane/dataplane.ts';
import type { Log, Problem } from './status.ts';

export class ProblemLog {
  private readonly log: Log;
  /** By code and object: a source and the model may both complain about one object. */
  private readonly current = new Map<string, Problem>();
  private refusals: readonly Refusal[] = [];

  constructor(log: Log) {
    this.log = log;
  }

  report(problem: Problem): void {
    const key = `${problem.code} ${problem.object}`;
    if (this.current.get(key)?.reason === problem.reason) return;
    this.current.set(key, problem);
    const { code, object, reason, origin } = problem;
    this.log.warn(origin === '' ? { code, object } : { code, object, origin }, `refused: ${reason}`);
  }

  gone(object: string): void {
    for (const [key, problem] of this.current) {
      if (problem.object !== object) continue;
      this.current.delete(key);
      this.log.info({ code: problem.code, object }, 'no longer refused');
    }
  }

  setRefusals(refusals: readonly Refusal[]): void {
    const known = new Set(this.refusals.map((r) => r.service));
    for (const { service, reason } of refusals) {
      if (!known.has(service)) this.log.error({ code: 'TP_KERNEL_REFUSED', object: nameOf(service) }, reason);
    }
    this.refusals = refusals;
  }

  all(): Problem[] {
    const refused = this.refusals.map(
      ({ service, reason }): Problem => ({
        code: 'TP_KERNEL_REFUSED',
        object: nameOf(service),
        reason,
        origin: '',
      }),
    );
    return [...this.current.values(), ...refused];
  }
}

function nameOf(service: string): string {
  return service === '' ? 'the node’s own rules' : `Service ${service}`;
}
