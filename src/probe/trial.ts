/** One trial: something that works, or an error from which the remedy is made. */
import type { Dataplane, Mode } from '../dataplane/dataplane.ts';
import type { DesiredState } from '../model/desired.ts';
import { TriplaneError } from '../model/errors.ts';
import { isShortage } from '../node/privilege.ts';
import { type Feature, isSwitchedOff, SWITCH } from '../node/switches.ts';
import type { ProbeRow } from './report.ts';

export interface Need {
  readonly mode: Mode;
  readonly need: string;
  readonly weight: ProbeRow['weight'];
  /** What to do about a no. */
  readonly remedy: string;
  /** Switched off, the answer is no whatever the kernel can do. */
  readonly features?: readonly Feature[];
}

/** Why something could not be tried. */
export class Untried extends Error {}

/** Makes a place to try something in. That there can be none (a read-only container) says nothing of the kernel. */
export function orUntried<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw new Untried(`there is no place to try it: ${oneLine(error)}`, { cause: error });
  }
}

const NOT_ALLOWED = new Set(['TP_NO_PRIVILEGE', 'EPERM', 'EACCES']);
const AS_ROOT = 'run as root to try it';

function oneLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}

function rowOf({ mode, need, weight }: Need, answer: ProbeRow['answer'], remedy: string): ProbeRow {
  return { mode, need, weight, answer, remedy };
}

/** null: it worked. Lack of privilege, or of memory at this moment, is no answer. */
export function answerOf(need: Need, error: unknown): ProbeRow {
  if (error === null) return rowOf(need, 'yes', '');
  const code = error instanceof TriplaneError ? error.code : (error as { code?: string }).code;
  if (error instanceof Untried) return rowOf(need, 'unknown', error.message);
  if (code !== undefined && NOT_ALLOWED.has(code)) return rowOf(need, 'unknown', AS_ROOT);
  // By the errno. Who tries whether there is room has an error of its own, without one.
  const cause = error instanceof TriplaneError ? error.cause : error;
  if (isShortage((cause as { code?: unknown } | undefined)?.code))
    return rowOf(need, 'unknown', `too little to try it: ${oneLine(error)}`);
  return rowOf(need, 'no', `${need.remedy}: ${oneLine(error)}`);
}

export async function attempt(need: Need, work: () => unknown): Promise<ProbeRow> {
  const off = need.features?.find(isSwitchedOff);
  if (off) return rowOf(need, 'no', `switched off by ${SWITCH}=${off}`);
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
