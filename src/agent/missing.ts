/** What to tell a person whose mode cannot run: what it lacks, and the modes that could. */
import type { Mode } from '../dataplane/dataplane.ts';
import { TriplaneError } from '../model/errors.ts';
import { probeKernel } from '../probe/probe.ts';
import { missingOf, modesThatRun, type ProbeReport } from '../probe/report.ts';

type Probe = () => Promise<ProbeReport>;

/** The error again, unless it says that the kernel lacks something: then one that says all that it lacks. */
export async function explainMissing(
  error: unknown,
  mode: Mode | 'auto' | '',
  probe: Probe = probeKernel,
): Promise<Error> {
  if (!(error instanceof TriplaneError)) return error as Error;
  if (error.code !== 'TP_NO_FEATURE' || mode === 'auto' || mode === '') return error;
  const { rows } = await probe();
  const missing = missingOf(rows, mode);
  return cannotRun(mode, missing.length > 0 ? missing : [error.message], rows, error);
}

/** null: nothing that the mode needs is missing, as far as can be tried. */
export async function lacking(mode: Mode, probe: Probe = probeKernel): Promise<TriplaneError | null> {
  const { rows } = await probe();
  const missing = missingOf(rows, mode);
  return missing.length > 0 ? cannotRun(mode, missing, rows) : null;
}

function cannotRun(
  mode: Mode,
  missing: readonly string[],
  rows: ProbeReport['rows'],
  cause?: TriplaneError,
): TriplaneError {
  const others = modesThatRun(rows).filter((other) => other !== mode);
  const text = `mode ${mode} cannot run: it lacks ${missing.join('; ')}; modes that can: ${others.join(', ') || 'none'}`;
  return new TriplaneError('TP_NO_FEATURE', text, { cause });
}
