// The steps of `npm run setup`, in order: system packages, npm packages, native addon and bundle.
import process from 'node:process';
import { buildAll, nativeIsStale } from './build-steps.mjs';
import { ensureNodeModules } from './node-modules.mjs';
import { ensurePackages } from './packages.mjs';

export function say(line) {
  process.stdout.write(`setup: ${line}\n`);
}

/** Returns undefined when everything is in place, otherwise the message that says what is not. */
export async function setup() {
  return (
    (await ensurePackages(nativeIsStale(), say)) ?? (await ensureNodeModules(say)) ?? (await buildAll(say))
  );
}

/** Setup as a program: ends the process with status 1 when something is missing. */
export async function main() {
  const problem = await setup();
  if (problem === undefined) return;
  process.stderr.write(`setup: ${problem}\n`);
  process.exitCode = 1;
}
