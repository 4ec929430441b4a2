/** The bench of modes is a program of its own (bench/modes.ts, built into dist/): its load and the agent stay apart. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { TriplaneError } from '../model/errors.ts';
import { packageRoot } from '../node/native.ts';
import { EXIT } from './exit-with.ts';

/** Resolves to its exit code. Throws TP_NO_LIBRARY where it is not built. */
export async function runBench(args: readonly string[]): Promise<number> {
  const program = path.join(packageRoot(), 'dist/bench.mjs');
  if (!existsSync(program))
    throw new TriplaneError('TP_NO_LIBRARY', `${program} is not built: run npm run setup`);
  const child = spawn(process.execPath, [program, ...args], { stdio: 'inherit' });
  // Ctrl-C reaches the whole group; the bench cleans up and ends, and this with it.
  const pass = (signal: NodeJS.Signals) => child.kill(signal);
  process.on('SIGINT', pass).on('SIGTERM', pass);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? EXIT.failure));
  });
}
