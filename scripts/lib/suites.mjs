// The suites of `npm test`, in order. A suite is a child process that is watched until it ends, and adds what it
// found to the results.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { DEFAULT_KERNEL } from '../kernels/catalog.mjs';
import { ONLY_THERE, runTestsInKernel, TESTS } from '../kernels/suite.mjs';
import { inRoot, root } from './files.mjs';
import { privilegedPrefix, privilegeNotice } from './privilege.mjs';
import { endProcessesOf } from './processes.mjs';
import { lastLines, npmCommand } from './run.mjs';
import { VitestEvents } from './vitest-events.mjs';

/** How long a child's own children may take to end after it. */
const PATIENCE_MS = 3_000;

/** Booting another kernel and all that runs in it: ends what hangs, on a machine that does much beside it. */
const KERNEL_TIME_MS = 50 * 60_000;

/**
 * Runs a program that shares our output. Resolves to { status, timedOut, stragglers }. `watch` is
 * { run, deadlineMs, stop, kernel }: the run's name, when all must be over, a signal that ends it early, and what
 * prepareKernel() found ({} in a run that boots none).
 */
async function runWatched(argv, env, watch) {
  const child = spawn(argv[0], argv.slice(1), {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, ...env },
  });
  const ended = new Promise((resolve) => {
    child.on('error', () => resolve(127));
    child.on('exit', (status, signal) => resolve(status ?? signal));
  });
  let timer;
  const tooLate = new Promise((resolve) => {
    timer = setTimeout(resolve, Math.max(0, watch.deadlineMs - Date.now()), 'too late');
  });
  const stopped = new Promise((resolve) => {
    watch.stop.addEventListener('abort', () => resolve('stopped'), { once: true });
  });
  const first = await Promise.race([ended, tooLate, stopped]);
  clearTimeout(timer);
  const cut = first === 'too late' || first === 'stopped';
  const stragglers = await endProcessesOf(watch.run, cut ? 0 : PATIENCE_MS);
  return { status: await ended, timedOut: first === 'too late', stragglers: cut ? [] : stragglers };
}

function reportStragglers(name, stragglers, results) {
  for (const { pid, command } of stragglers)
    results.fail(name, `left a process running (ended now): ${pid} ${command}`);
}

async function runCheck(results, watch) {
  const npm = npmCommand();
  process.stdout.write('type check, lint and format (npm run check)\n');
  const { status, timedOut } = await runWatched(
    [npm.command, ...npm.args, 'run', '--silent', 'check'],
    {},
    watch,
  );
  if (status === 0) results.passed += 1;
  else
    results.fail(
      'npm run check',
      timedOut ? 'ran into the time bound' : `status ${status}; \`npm run format\` repairs what it can`,
    );
}

/** What this kernel may lack, on one that has it: booted under emulation, with this machine's files as its root. */
async function runKernel(results, watch) {
  const name = `the ipvs mode, in a booted Linux ${DEFAULT_KERNEL}`;
  const { kernel, skipped } = watch.kernel;
  if (skipped) {
    results.skip({ name, reason: skipped });
    return;
  }
  process.stdout.write(`${name}\n`);
  const runFiles = async (files) => {
    const timeoutMs = Math.min(KERNEL_TIME_MS, watch.deadlineMs - Date.now());
    const result = await runTestsInKernel(kernel, files, { timeoutMs, signal: watch.stop });
    const events = new VitestEvents(result.events);
    if (result.status !== 0) process.stdout.write(`${lastLines(result.output, 60)}\n`);
    return { events, outcome: { status: result.status, timedOut: result.status < 0, stragglers: [] } };
  };
  await runAndAskAgain(name, await runFiles(TESTS.ipvs), runFiles, results);
}

/** More files than these with a failure are no accident. */
const AGAIN_MAX = 3;

/**
 * A machine of little power and much else to do makes a test fail now and then that proves nothing about the code it
 * runs on. Files with a failure run once more, alone; what passes then is listed as unsteady, and never just forgotten.
 */
async function runAndAskAgain(name, { events, outcome }, runFiles, results) {
  const failed = events.finished ? events.failedFiles : undefined;
  if (failed && failed.length > 0 && failed.length <= AGAIN_MAX) {
    process.stdout.write(`\n${name}: what failed is asked once more: ${failed.join(' ')}\n`);
    const second = await runFiles(failed);
    reportStragglers(name, second.outcome.stragglers, results);
    events.replaceBy(second.events);
    if (events.failedFiles?.length === 0) outcome.status = 0;
  }
  events.addTo(results);
  judgeVitest(name, outcome, events, results);
}

/** vitest would otherwise write the compiled configuration into node_modules, which may belong to root. */
const LOADER = ['--configLoader=runner'];

/** A whole run leaves to the booted kernel what only makes sense there, so that it is not skipped by name here. */
function elsewhere({ kernel }) {
  return kernel ? ONLY_THERE.map((pattern) => `--exclude=${pattern}`) : [];
}

/** Runs `command` with vitest's arguments and a reporter of ours. Resolves to what came of it and what it told. */
async function runReported(command, args, watch, options) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'triplane-test-'));
  try {
    const file = path.join(folder, 'events');
    const reporters = ['--reporter=default', `--reporter=${inRoot('scripts/lib/vitest-reporter.mjs')}`];
    const outcome = await runWatched(
      [...command, ...reporters, ...args],
      { TRIPLANE_TEST_REPORT: file },
      watch,
    );
    return { outcome, events: VitestEvents.of(file, options) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function runVitest(results, watch, args) {
  const prefix = privilegedPrefix();
  const notice = privilegeNotice(prefix);
  if (notice) process.stdout.write(`${notice}\n`);
  const selectsByName = args.some((arg) => /^(-t|--testNamePattern)/.test(arg));
  const vitest = [process.execPath, inRoot('node_modules/vitest/vitest.mjs'), 'run', ...LOADER];
  const runWith = (some) =>
    runReported([...(prefix ?? []), ...vitest], [...some, ...elsewhere(watch)], watch, { selectsByName });
  const first = await runWith(args);
  // Whoever names tests wants to see them fail.
  if (args.length === 0) {
    await runAndAskAgain('vitest', first, runWith, results);
    return;
  }
  first.events.addTo(results);
  judgeVitest('vitest', first.outcome, first.events, results);
}

function judgeVitest(name, { status, timedOut, stragglers }, { running, finished, ran }, results) {
  reportStragglers(name, stragglers, results);
  if (timedOut || !finished) {
    const why = timedOut ? 'ran into the time bound' : `ended before its end (${status})`;
    results.fail(name, `${why}; running: ${running.join('; ') || 'nothing'}`);
  } else if (ran === 0) {
    results.fail(name, 'not a single test ran');
  } else if (status !== 0 && results.failures.length === 0) {
    results.fail(name, `ended with status ${status} and named no failed test`);
  }
}

const SANITIZED = 'the addon under AddressSanitizer';

/** Beside the tests, which mostly wait; what it says is of interest only if it fails. */
async function buildSanitized(results, watch) {
  if (process.env.TRIPLANE_TEST_ASAN !== '1') {
    results.skip({
      name: SANITIZED,
      reason: 'compiles for minutes: TRIPLANE_TEST_ASAN=1 npm test, or npm run test:asan',
    });
    return;
  }
  const library = spawnSync('gcc', ['-print-file-name=libasan.so'], { encoding: 'utf8' });
  // A bare name is one that it has not found.
  if (!library.stdout?.includes('/')) {
    results.skip({ name: SANITIZED, reason: 'needs a gcc with AddressSanitizer' });
    return;
  }
  const command = `exec nice -n 5 '${process.execPath}' scripts/asan.mjs build >build/asan.log 2>&1`;
  const { status, timedOut } = await runWatched(['sh', '-c', command], {}, watch);
  if (status === 0) return;
  const log = lastLines(readFileSync(inRoot('build/asan.log'), 'utf8'), 30);
  results.fail(SANITIZED, timedOut ? 'its compiler ran into the time bound' : `does not compile:\n${log}`);
}

/** The tests of the addon once more, in a process that ends at the first access outside of what is allocated. */
async function runSanitized(results, watch) {
  const isBuilt = existsSync(inRoot('build-asan/Release/triplane.node'));
  if (process.env.TRIPLANE_TEST_ASAN !== '1' || !isBuilt) return;
  const prefix = privilegedPrefix();
  const command = [...(prefix ?? []), process.execPath, inRoot('scripts/asan.mjs'), 'run'];
  const runFiles = (files) => runReported(command, files, watch);
  process.stdout.write(`${SANITIZED}\n`);
  await runAndAskAgain(
    SANITIZED,
    await runFiles(['test/native', 'test/bpf/program-groups.test.ts']),
    runFiles,
    results,
  );
}

/**
 * Stages one after the other, of suites beside each other: name; run(results, watch, args), each with results of its
 * own; `always`: also when arguments select some of vitest's tests. The booted kernel has what time the others leave: they mostly wait.
 */
export const STAGES = [
  [{ name: 'check', always: true, run: runCheck }],
  [
    { name: 'vitest', always: true, run: runVitest },
    { name: 'kernel', always: false, run: runKernel },
    { name: 'sanitized build', always: false, run: buildSanitized },
  ],
  [{ name: 'sanitized', always: false, run: runSanitized }],
];
