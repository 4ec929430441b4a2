/** One trial: something that works, or an error from which the remedy is made. */
import type { Dataplane, Mode } from '../dataplane/dataplane.ts';
import type { DesiredState } from '../model/desired.ts';
import { TriplaneError } from '../model/errors.ts';
import type { ProbeRow } from './report.ts';

export interface Need {
  readonly mode: Mode;
  readonly need: string;
  readonly weight: ProbeRow['weight'];
  /** What to do about a no; the error's own message when it says more. */
  readonly remedy: string;
}

function oneLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}

/** Lack of privilege is no answer. */
export function answerOf({ mode, need, weight, remedy }: Need, error: unknown): ProbeRow {
  const row = (answer: ProbeRow['answer'], text: string): ProbeRow => ({
    mode,
    need,
    weight,
    answer,
    remedy: text,
  });
  if (error === null) return row('yes', '');
  const code = error instanceof TriplaneError ? error.code : (error as { code?: string }).code;
  if (code === 'TP_NO_PRIVILEGE' || code === 'EPERM' || code === 'EACCES')
    return row('unknown', 'run as root to try it');
  return row('no', `${remedy}: ${oneLine(error)}`);
}

export async function attempt(need: Need, work: () => unknown): Promise<ProbeRow> {
  try {
    await work();
    return answerOf(need, null);
  } catch (error) {
    return answerOf(need, error);
  }
}

/** Brings a whole state into the kernel; what the kernel refuses is the error. */
export async function carry(open: () => Dataplane, state: DesiredState): Promise<void> {
  const dataplane = open();
  try {
    const { refusals } = await dataplane.start(state);
    if (refusals.length > 0) throw new Error(refusals[0]!.reason);
  } finally {
    await dataplane.close();
  }
}
