// What vitest-reporter.mjs wrote, read: results by file, what was running when it stopped, whether it came to its end.
import { existsSync, readFileSync } from 'node:fs';
import { Results } from './results.mjs';

/** Of errors that belong to no file. */
const NO_FILE = '';

function fileOf(name) {
  return /^\S+\.test\.ts\b/.exec(name)?.[0] ?? NO_FILE;
}

/** With -t, vitest calls what was not selected skipped, too. */
function notSelected({ mode, reason }) {
  return mode === 'skip' && !reason;
}

export class VitestEvents {
  /** Name of a test file -> what it found. */
  files = new Map();
  /** Tests that ran to an end. */
  ran = 0;
  finished = false;
  #running = new Set();

  /**
   * @param {string} text JSON lines
   * @param {{ selectsByName?: boolean }} options
   */
  constructor(text, { selectsByName = false } = {}) {
    for (const line of text.split('\n').filter(Boolean)) this.#read(JSON.parse(line), selectsByName);
  }

  static of(file, options) {
    return new VitestEvents(existsSync(file) ? readFileSync(file, 'utf8') : '', options);
  }

  #read(event, selectsByName) {
    if (event.event === 'end') this.finished = true;
    else if (event.event === 'module' || event.event === 'start') this.#running.add(event.name);
    else this.#running.delete(event.name);
    if (event.event === 'passed') this.#resultsOf(event.name).passed += 1;
    else if (event.event === 'failed') this.#resultsOf(event.name).fail(event.name, event.reason);
    else if (event.event === 'skipped' && !(selectsByName && notSelected(event)))
      this.#resultsOf(event.name).skip(event);
    if (event.event === 'passed' || event.event === 'failed') this.ran += 1;
  }

  #resultsOf(name) {
    const file = fileOf(name);
    const results = this.files.get(file) ?? new Results();
    this.files.set(file, results);
    return results;
  }

  get running() {
    return [...this.#running];
  }

  /** Files in which something failed. undefined: an error belongs to none, so no file can be asked again for it. */
  get failedFiles() {
    const failed = [...this.files].filter(([, { failures }]) => failures.length > 0).map(([file]) => file);
    return failed.includes(NO_FILE) ? undefined : failed;
  }

  /**
   * Takes what a second run found of the files that passed this time, and remembers what had failed in them.
   * @param {VitestEvents} second
   */
  replaceBy(second) {
    if (!second.finished) return;
    for (const [file, again] of second.files) {
      const first = this.files.get(file);
      if (!first || again.failures.length > 0 || again.passed === 0) continue;
      again.unsteady.push(...first.failures);
      this.files.set(file, again);
    }
  }

  /** @param {Results} results what is added to */
  addTo(results) {
    for (const found of this.files.values()) results.add(found);
  }
}
