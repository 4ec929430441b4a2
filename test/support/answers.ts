/** Whether the pods that answered are those that may: of the service and, of a sticky one, the pod that its client has. */
import type { Load, Place } from '../../src/lab/place.ts';
import type { CallSummary } from '../../src/lab/results.ts';

export interface Way {
  readonly title: string;
  readonly from: Place;
  readonly address: string;
  readonly port: number;
  /** The pods that may answer, all that the service has had since the world's last stop(). */
  readonly backends: ReadonlySet<string>;
  /** The service remembers its clients: of its backends each source has one. */
  readonly sticky: boolean;
}

/** Open connections, or new ones, that go on by a way. */
export interface Traffic {
  readonly title: string;
  readonly way: Way;
  readonly protocol: 'tcp' | 'udp';
  readonly kind: 'hold' | 'load';
  /** New connections a second. */
  readonly rate: number;
  readonly durationMs: number;
  readonly job: Load;
  /** Of Answers, when it began. */
  readonly era: number;
}

interface Remembered {
  readonly pod: string;
  /** The number of times that clients had been forgotten by then. */
  readonly era: number;
}

export class Answers {
  readonly #remembered = new Map<string, Remembered>();
  #era = 0;

  /** How often clients have been forgotten. */
  get era(): number {
    return this.#era;
  }

  /** From now on a sticky service may give its clients another pod, once. */
  forget(): void {
    this.#era++;
  }

  /** What is wrong with the answers that came, one line each. */
  wrong({ way, protocol, kind, era: began }: Traffic, result: CallSummary): string[] {
    const { pods, firstMs, lastMs } = result;
    const named = Object.keys(pods);
    const strangers = named.filter((pod) => !way.backends.has(pod));
    if (strangers.length > 0) return [`${JSON.stringify(pods)}: ${strangers} is no backend`];
    if (!way.sticky || named.length === 0) return [];
    // A hold has its pods from its first answers.
    const ended = kind === 'hold' ? began : this.#era;
    const order = named.sort((a, b) => firstMs[a]! - firstMs[b]!);
    const key = `${way.title}, ${protocol}`;
    const before = this.#remembered.get(key);
    if (order.length > 1 + ended - began) return [`sticky, and answered by ${JSON.stringify(pods)}`];
    if (before?.era === began && before.pod !== order[0])
      return [`sticky, and answered by ${order[0]}; its client has had ${before.pod}`];
    const pod = named.reduce((latest, one) => (lastMs[one]! > lastMs[latest]! ? one : latest));
    if (before === undefined || before.era <= ended) this.#remembered.set(key, { pod, era: ended });
    return [];
  }
}

/** What went wrong with open connections or new ones; that a busy machine sent fewer than were asked for is no news. */
export function lost({ rate, durationMs, job }: Traffic, result: CallSummary): string[] {
  const { outcomes, moved, exchanges, total, skipped, elapsedMs } = result;
  const { ok: _, ...bad } = outcomes;
  const failed = Object.entries(bad).filter(([, count]) => count > 0);
  const lines: string[] = [];
  if (failed.length > 0 || job.failures.length > 0)
    lines.push(`${JSON.stringify(Object.fromEntries(failed))} ${JSON.stringify(job.failures[0])}`);
  if (moved > 0) lines.push(`${moved} flows went to another backend`);
  if (elapsedMs >= durationMs) lines.push('it had ended by itself before it was to');
  if (exchanges + total === 0) lines.push('nothing was sent');
  const wanted = (rate * elapsedMs) / 1000;
  if (total < wanted / 2)
    lines.push(`${total} sent and ${skipped} left out, where ${Math.round(wanted)} were to be sent`);
  return lines;
}
