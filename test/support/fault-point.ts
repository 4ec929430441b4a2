/** Where a program under test is to end, or which of its waits are to be shorter: fault-point.mjs does it. */
import path from 'node:path';
import process from 'node:process';
import { ROOT } from './checkout.ts';

export interface FaultPoint {
  /** Counts once the log has had lines with these words, one after the other; default: from the start. */
  readonly armed?: readonly string[];
  /** A line of the log that has these words: written, and nothing after it. */
  readonly log?: string;
  /** A call of the addon ("bpfPin", "NftSocket.commit"; "*": any), or "Atomics.store": one into a map, say. */
  readonly call?: string;
  /** The so manieth, from 1. */
  readonly count?: number;
  /** Of a call: before it, when it was made and goes on in the background, or (default) when it has ended. */
  readonly when?: 'before' | 'made' | 'after';
  /** Writes how many of them there were into a file, once a line of the log has these words. */
  readonly tally?: { readonly log: string; readonly file: string };
  /** Waits of more than `longerThanMs` are `times` shorter beyond that. */
  readonly timers?: { readonly longerThanMs: number; readonly times: number };
}

/** The environment of a program that is to meet this. */
export function faultEnvironment(point: FaultPoint): Record<string, string> {
  const hook = path.join(ROOT, 'test/support/fault-point.mjs');
  return {
    NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ''} --import=${hook}`.trim(),
    TRIPLANE_TEST_FAULT: JSON.stringify(point),
  };
}
