/** What the mode in charge does not serve: a switch must not lose more than that. */
import type { ApplyResult, Mode, Refusal } from '../dataplane/dataplane.ts';
import type { DesiredChange } from '../model/desired.ts';
import { TriplaneError } from '../model/errors.ts';
import type { ObjectKey } from '../model/records.ts';

function unserved({ refusals }: ApplyResult): Refusal[] {
  return refusals.filter(({ service, served }) => service !== '' && served === undefined);
}

export class Unserved {
  #services = new Set<ObjectKey>();

  /** The result speaks of everything. */
  started(result: ApplyResult): void {
    this.#services = new Set(unserved(result).map(({ service }) => service));
  }

  applied(change: DesiredChange, result: ApplyResult): void {
    for (const key of change.remove) this.#services.delete(key);
    for (const { key } of change.set) this.#services.delete(key);
    for (const { service } of unserved(result)) this.#services.add(service);
  }

  /** Throws TP_KERNEL_REFUSED where a mode that is complete would not serve what is served now. */
  requireNoMore(mode: Mode, result: ApplyResult): void {
    const lost = unserved(result).filter(({ service }) => !this.#services.has(service));
    const [first] = lost;
    if (!first) return;
    const count = new Set(lost.map(({ service }) => service)).size;
    const what = count === 1 ? 'a service' : `${count} services`;
    throw new TriplaneError(
      'TP_KERNEL_REFUSED',
      `mode ${mode} would not serve ${what} that ${count === 1 ? 'is' : 'are'} served now: ${first.service}: ${first.reason}`,
    );
  }
}
