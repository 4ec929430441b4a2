// `npm test` itself: setup, then every suite, then the account of it.
import { randomUUID } from 'node:crypto';
import process from 'node:process';
import { DEFAULT_KERNEL } from '../kernels/catalog.mjs';
import { prepareKernel } from '../kernels/suite.mjs';
import { RUN_VARIABLE } from './processes.mjs';
import { Results } from './results.mjs';
import { say, setup } from './setup.mjs';
import { stopOnSignals } from './signals.mjs';
import { STAGES } from './suites.mjs';

const MINUTE_MS = 60_000;
/** Ends what hangs. Setup not counted: on a fresh machine it downloads. Two slow cores need a third of it. */
const TIME_BOUND_MS = Number(process.env.TRIPLANE_TEST_MINUTES_MAX ?? 60) * MINUTE_MS;

async function runSuites(results, args, kernel) {
  const run = randomUUID();
  process.env[RUN_VARIABLE] = run;
  const watch = { run, deadlineMs: Date.now() + TIME_BOUND_MS, stop: stopOnSignals(), kernel };
  const begin = async (suite) => {
    // Of its own: what runs beside it is not to be taken for its failures.
    const found = new Results();
    try {
      if (watch.stop.aborted) found.fail(suite.name, `not run: stopped by ${watch.stop.reason}`);
      else if (Date.now() > watch.deadlineMs) found.fail(suite.name, 'not run: the time bound was reached');
      else await suite.run(found, watch, args);
    } finally {
      results.add(found);
    }
  };
  for (const stage of STAGES)
    await Promise.all(stage.filter(({ always }) => always || args.length === 0).map(begin));
}

/** Beside the others it takes hardly more time. */
async function bootedKernel() {
  if (process.env.TRIPLANE_TEST_KERNEL === '0') return { skipped: 'TRIPLANE_TEST_KERNEL=0' };
  return prepareKernel(DEFAULT_KERNEL, say);
}

export async function main(args) {
  const results = new Results();
  const problem = await setup();
  const kernel = problem === undefined && args.length === 0 ? await bootedKernel() : {};
  if (problem === undefined) await runSuites(results, args, kernel);
  else results.fail('setup', problem);
  process.stdout.write(`${results.report()}\n`);
  process.exitCode = results.failures.length > 0 ? 1 : 0;
}
