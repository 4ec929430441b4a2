// `npm test` itself: setup, then every suite, then the account of it.
import { randomUUID } from 'node:crypto';
import process from 'node:process';
import { DEFAULT_KERNEL } from '../kernels/catalog.mjs';
import { prepareKernel } from '../kernels/suite.mjs';
import { RUN_VARIABLE } from './processes.mjs';
import { Results } from './results.mjs';
import { say, setup } from './setup.mjs';
import { SUITES } from './suites.mjs';

const MINUTE_MS = 60_000;
/** Setup not counted: on a fresh machine it downloads. CI allows 20 minutes. */
const TIME_BOUND_MS = Number(process.env.TRIPLANE_TEST_MINUTES_MAX ?? 18) * MINUTE_MS;

function stopOnSignals() {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop.abort(signal));
  return stop.signal;
}

async function runSuites(results, args, kernel) {
  const run = randomUUID();
  process.env[RUN_VARIABLE] = run;
  const watch = { run, deadlineMs: Date.now() + TIME_BOUND_MS, stop: stopOnSignals(), kernel };
  for (const suite of SUITES) {
    if (args.length > 0 && !suite.always) continue;
    if (watch.stop.aborted) results.fail(suite.name, `not run: stopped by ${watch.stop.reason}`);
    else if (Date.now() > watch.deadlineMs) results.fail(suite.name, 'not run: the time bound was reached');
    else await suite.run(results, watch, args);
  }
}

export async function main(args) {
  const results = new Results();
  const problem = await setup();
  // Selected tests run here; a whole run boots a kernel besides, which is part of what a fresh machine downloads.
  const kernel = problem === undefined && args.length === 0 ? await prepareKernel(DEFAULT_KERNEL, say) : {};
  if (problem === undefined) await runSuites(results, args, kernel);
  else results.fail('setup', problem);
  process.stdout.write(`${results.report()}\n`);
  process.exitCode = results.failures.length > 0 ? 1 : 0;
}
