// Tells the test run (test-run.mjs) what vitest does, as JSON lines in the file TRIPLANE_TEST_REPORT. vitest's own
// json reporter knows neither why a test was skipped nor, when the run is ended from outside, what was running.
import { appendFileSync } from 'node:fs';
import process from 'node:process';

const file = process.env.TRIPLANE_TEST_REPORT;

function tell(event) {
  // Synchronous, so that nothing is lost when the run is killed.
  if (file) appendFileSync(file, `${JSON.stringify(event)}\n`);
}

function describeModule(module) {
  return module.relativeModuleId ?? module.moduleId;
}

function nameOf(test) {
  return `${describeModule(test.module)} > ${test.fullName}`;
}

/** Of a property, with the seed and the path to the counterexample: without them nobody finds it again. */
function oneLine(errors) {
  const [first, second] = String(errors?.[0]?.message ?? 'no message').split('\n');
  return second?.startsWith('{ seed:') ? `${first} ${second}` : first;
}

export default class RunReporter {
  onTestModuleStart(module) {
    tell({ event: 'module', name: describeModule(module) });
  }

  onTestModuleEnd(module) {
    // Errors outside of tests: the file does not load, a beforeAll throws.
    for (const error of module.errors()) {
      tell({ event: 'failed', name: describeModule(module), reason: oneLine([error]) });
    }
    for (const suite of module.children.allSuites()) {
      for (const error of suite.errors()) {
        tell({
          event: 'failed',
          name: `${describeModule(module)} > ${suite.fullName}`,
          reason: oneLine([error]),
        });
      }
    }
    tell({ event: 'module-end', name: describeModule(module) });
  }

  onTestCaseReady(test) {
    if (test.options.mode === 'run') tell({ event: 'start', name: nameOf(test) });
  }

  onTestCaseResult(test) {
    const { state, errors, note } = test.result();
    const reason = state === 'failed' ? oneLine(errors) : note;
    tell({ event: state, name: nameOf(test), mode: test.options.mode, reason });
  }

  onTestRunEnd(_modules, unhandledErrors, reason) {
    for (const error of unhandledErrors) {
      tell({ event: 'failed', name: 'an error outside of every test', reason: oneLine([error]) });
    }
    tell({ event: 'end', reason });
  }
}
