/**
 * Where the time of a phase goes: the addon's methods are timed, so that the product needs no measuring
 * points. `build` is the synchronous part (netlink messages from packed operations), `kernel` what follows
 * until the answer; what is in neither is TypeScript, or the skeleton's child process.
 */
import { loadNative } from '../../src/node/native.ts';

export interface Spent {
  buildMs: number;
  commitMs: number;
  dumpMs: number;
  commits: number;
  dumps: number;
}

export function emptySpent(): Spent {
  return { buildMs: 0, commitMs: 0, dumpMs: 0, commits: 0, dumps: 0 };
}

let spent = emptySpent();

/** The time since the last call. */
export function takeSpent(): Spent {
  const taken = spent;
  spent = emptySpent();
  return taken;
}

interface Socket {
  commit(...args: unknown[]): Promise<unknown>;
  dumpElements(...args: unknown[]): Promise<unknown>;
  dumpRules(...args: unknown[]): Promise<unknown>;
  dumpNames(...args: unknown[]): Promise<unknown>;
}

async function time<T>(
  start: () => Promise<T>,
  done: (builtMs: number, waitedMs: number) => void,
): Promise<T> {
  const began = performance.now();
  const promise = start();
  const built = performance.now();
  try {
    return await promise;
  } finally {
    done(built - began, performance.now() - built);
  }
}

function dumped(builtMs: number, waitedMs: number): void {
  spent.dumpMs += builtMs + waitedMs;
  spent.dumps++;
}

/** Puts a measuring class in the place of the addon's own, whose methods cannot be replaced. */
export function installStopwatch(): void {
  const native = loadNative() as unknown as { NftSocket: new (netns: string) => Socket };
  native.NftSocket = class extends native.NftSocket {
    override commit(...args: unknown[]) {
      return time(
        () => super.commit(...args),
        (builtMs, waitedMs) => {
          spent.buildMs += builtMs;
          spent.commitMs += waitedMs;
          spent.commits++;
        },
      );
    }
    override dumpElements(...args: unknown[]) {
      return time(() => super.dumpElements(...args), dumped);
    }
    override dumpRules(...args: unknown[]) {
      return time(() => super.dumpRules(...args), dumped);
    }
    override dumpNames(...args: unknown[]) {
      return time(() => super.dumpNames(...args), dumped);
    }
  };
}
