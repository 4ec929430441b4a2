// `npm run test:kernels [-- KERNEL|MODE...] [-t NAME]`: every mode on a set of kernels, and a table of what came out; with -t the
// tests with that in their name (a regular expression).
import process from 'node:process';
import { parseArgs } from 'node:util';
import { KERNELS } from './kernels/catalog.mjs';
import { environmentOf, prepareKernel, runTestsInKernel, TESTS } from './kernels/suite.mjs';
import { requireNode } from './lib/node-version.mjs';
import { Results } from './lib/results.mjs';
import { say, setup } from './lib/setup.mjs';
import { stopOnSignals } from './lib/signals.mjs';
import { VitestEvents } from './lib/vitest-events.mjs';

requireNode();

const MINUTE_MS = 60_000;
const TIME_BOUND_MS = 25 * MINUTE_MS;

/** One cell: "271 passed" or what went wrong. */
function summary({ events: text }, options) {
  const events = new VitestEvents(text, options);
  const found = new Results();
  events.addTo(found);
  return [
    `${found.passed} passed`,
    ...(found.skips.length > 0 ? [`${found.skips.length} skipped`] : []),
    ...(found.failures.length > 0 ? [`${found.failures.length} FAILED`] : []),
    ...(events.finished ? [] : ['ENDED EARLY']),
  ].join(', ');
}

/** What a word of the command line names: kernels, modes, or both; none of a sort is all of it. */
function chosenOf(names) {
  const kernels = KERNELS.map(({ name }) => name);
  const modes = Object.keys(TESTS);
  const unknown = names.filter((name) => !kernels.includes(name) && !modes.includes(name));
  if (unknown.length > 0)
    throw new Error(`no such kernel or mode: ${unknown.join(', ')} (${[...kernels, ...modes].join(', ')})`);
  const some = (all) =>
    all.some((name) => names.includes(name)) ? all.filter((name) => names.includes(name)) : all;
  return { kernels: some(kernels), modes: some(modes) };
}

async function main() {
  const { values, positionals } = parseArgs({
    options: { name: { type: 'string', short: 't' } },
    allowPositionals: true,
  });
  const named = values.name ? { TRIPLANE_TEST_NAME: values.name } : {};
  const chosen = chosenOf(positionals);
  const problem = await setup();
  if (problem) throw new Error(problem);
  const rows = [];
  const signal = stopOnSignals();
  for (const name of chosen.kernels) {
    const { kernel, skipped } = await prepareKernel(name, say);
    for (const mode of chosen.modes) {
      if (signal.aborted) throw new Error(`stopped by ${signal.reason}`);
      const options = { timeoutMs: TIME_BOUND_MS, signal, environment: { ...environmentOf(mode), ...named } };
      const result = skipped ? {} : await runTestsInKernel(kernel, TESTS[mode], options);
      const cell = skipped ? `not run: ${skipped}` : summary(result, { selectsByName: Boolean(values.name) });
      rows.push(`| ${name} | ${kernel?.version ?? '-'} | ${mode} | ${cell} |`);
      process.stdout.write(`${rows.at(-1)}\n`);
      if (/FAILED|EARLY/.test(cell)) {
        process.stdout.write(`${result.output}\n`);
        process.exitCode = 1;
      }
    }
  }
  process.stdout.write(`\n| kernel | version | mode | result |\n|---|---|---|---|\n${rows.join('\n')}\n`);
}

await main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
