/** How the program ends, as a number. */

/** 0: done. 1: it failed. 2: it was called in a way that cannot work (flags, arguments, configuration file). */
export const EXIT = { ok: 0, failure: 1, usage: 2 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** Ends a command with this exit code when everything has been said already. */
export class ExitWith extends Error {
  readonly exit: ExitCode;
  constructor(exit: ExitCode) {
    super('');
    this.exit = exit;
  }
}
