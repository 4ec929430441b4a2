/** What somebody who is not root can try in a user namespace of his own (user_namespaces(7)): nftables. */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import type { Mode } from '../dataplane/dataplane.ts';
import { packageRoot } from '../node/native.ts';
import type { ProbeReport, ProbeRow } from './report.ts';

const INSIDE = 'TRIPLANE_PROBE_INSIDE';
const TIMEOUT_MS = 60_000;

/** The rows of one mode as the same program sees them from in there; null: there can be no such namespace. */
export async function rowsOfUserNamespace(mode: Mode): Promise<ProbeRow[] | null> {
  if (process.env[INSIDE]) return null;
  const program = [process.execPath, path.join(packageRoot(), 'bin/triplane'), 'probe', '-o', 'json'];
  const args = ['--user', '--map-root-user', '--net', '--', ...program];
  const options = { env: { ...process.env, [INSIDE]: '1' }, timeout: TIMEOUT_MS };
  const said = await promisify(execFile)('unshare', args, options).then(
    ({ stdout }) => stdout,
    // No mode may be able to run in there, and the report stands all the same.
    (error: { stdout?: string }) => error.stdout ?? '',
  );
  try {
    return (JSON.parse(said) as ProbeReport).rows.filter((row) => row.mode === mode);
  } catch {
    return null;
  }
}
