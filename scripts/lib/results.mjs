// What a test run has found, and how it is told.

/**
 * A skip says why in its note (`context.skip(reason)`) or in its name (test/support/skip.ts, or "(needs ...)").
 * @param {{ name: string, mode?: string, reason?: string }} event
 */
export function reasonOfSkip({ name, reason, mode }) {
  // Nobody skipped it: it was to run, and what stands before it failed (and is counted).
  if (mode === 'run' && !reason) return 'not reached: its beforeAll failed';
  return (
    reason || /\[skipped: (.+?)\]/.exec(name)?.[1] || /[[(]((?:needs|requires) .+?)[\])]/.exec(name)?.[1]
  );
}

export class Results {
  passed = 0;
  /** [{ name, reason }] */
  failures = [];
  /** [{ name, reason }] */
  skips = [];
  /** [{ name, reason }]: failed, and passed in a second run of their file. */
  unsteady = [];

  fail(name, reason) {
    this.failures.push({ name, reason });
  }

  /** @param {Results} others */
  add(others) {
    this.passed += others.passed;
    this.failures.push(...others.failures);
    this.skips.push(...others.skips);
    this.unsteady.push(...others.unsteady);
  }

  skip(event) {
    const reason = reasonOfSkip(event);
    if (reason) this.skips.push({ name: event.name.replaceAll(` [skipped: ${reason}]`, ''), reason });
    else this.fail(event.name, 'skipped without a reason: use skipUnless() of test/support/skip.ts');
  }

  /** The end of the run's output. Its last line is `N passed, N failed[, N skipped]`. */
  report() {
    const lines = [];
    const list = (title, items) => {
      if (items.length > 0) lines.push('', title, ...items.map((item) => `  ${item.name}: ${item.reason}`));
    };
    list('Skipped:', this.skips);
    list('Failed once, and passed when their file ran again, alone:', this.unsteady);
    list('Failed:', this.failures);
    const skipped = this.skips.length > 0 ? `, ${this.skips.length} skipped` : '';
    lines.push('', `${this.passed} passed, ${this.failures.length} failed${skipped}`);
    return lines.join('\n');
  }
}
