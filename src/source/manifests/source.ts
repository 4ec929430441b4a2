/**
 * Cluster state from manifest files: no API server needed. Files are read again when they change; whatever
 * is wrong with one of them, what it said before stays in force.
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, TriplaneError } from '../../model/errors.ts';
import type { RecordChange } from '../../model/records.ts';
import { oneLine } from '../decode/check.ts';
import { ProblemBook } from '../problems.ts';
import type { Source, SourceHealth, SourceListener } from '../source.ts';
import { Copies } from './copies.ts';
import { directoriesOf, isGone, listManifests, readManifest, type Stamp, stampOf } from './files.ts';
import { readDocuments } from './reading.ts';
import { type FileReading, ManifestState } from './state.ts';
import { DirectoryWatch, type WatchTimes } from './watch.ts';

export interface ManifestOptions {
  /** How long it must be quiet before changed files are read. Default 100. */
  readonly quietMs?: number;
  /** How long continuous writing can delay that. Default 1000. */
  readonly quietMaxMs?: number;
  /** The safety net beside inotify. Default 5000. */
  readonly pollIntervalMs?: number;
  /** A directory for copies of what files said last, which must outlive the process. Default '': none are kept. */
  readonly copies?: string;
}

export interface ManifestSource extends Source {
  /** How many objects of other kinds the files hold at the moment. */
  foreignObjects(): number;
}

const WRITING_RETRIES_MAX = 3;
/** A file that ends within a line is taken at its word after so many times the quiet time. */
const UNFINISHED_QUIETS = 10;
/** Longer texts are not kept for comparison. */
const SAID_LENGTH_MAX = 1 << 20;

interface FileMemory {
  /** Of the content that was read (or refused) last; '' to read it again. */
  stamp: Stamp;
  /** Problems of the file and of its documents that stand. */
  problems: Set<string>;
  foreign: number;
  /** When content that ends within a line was first seen, and its stamp. */
  unfinished: { readonly stamp: Stamp; readonly sinceMs: number } | null;
  /** The text that was last taken as whole. */
  said: string;
}

function messageOf(error: unknown): string {
  return oneLine(error instanceof Error ? error.message : String(error));
}

class ManifestWatcher implements ManifestSource {
  readonly #target: string;
  readonly #times: WatchTimes;
  readonly #copies: Copies;
  readonly #memory = new Map<string, FileMemory>();
  #listener: SourceListener | null = null;
  #book: ProblemBook | null = null;
  #state: ManifestState | null = null;
  #watch: DirectoryWatch | null = null;
  #isDirectory = false;
  #scanning: Promise<void> | null = null;
  #scanAgain = false;
  #stopped = false;
  #synced = false;
  #lastContactMs = 0;
  #failures = 0;
  #lastError = '';
  /** In the scan that is under way. */
  #copiesFailed = false;

  constructor(target: string, options: ManifestOptions) {
    this.#target = path.resolve(target);
    this.#copies = new Copies(options.copies ?? '', this.#target);
    this.#times = {
      quietMs: options.quietMs ?? 100,
      quietMaxMs: options.quietMaxMs ?? 1_000,
      pollIntervalMs: options.pollIntervalMs ?? 5_000,
    };
  }

  async start(listener: SourceListener): Promise<void> {
    try {
      this.#isDirectory = (await stat(this.#target)).isDirectory();
      await listManifests(this.#target);
    } catch (error) {
      const reason = isGone(error) ? 'does not exist' : messageOf(error);
      throw new TriplaneError('TP_BAD_MANIFEST', `--manifests ${this.#target}: ${reason}`, { cause: error });
    }
    this.#listener = listener;
    this.#book = new ProblemBook(listener);
    this.#state = new ManifestState(this.#book);
    this.#watch = new DirectoryWatch(this.#times, () => this.#scanSoon());
    this.#scanSoon();
  }

  health(): readonly SourceHealth[] {
    return [
      {
        what: `manifests ${this.#target}`,
        synced: this.#synced,
        lastContactMs: this.#lastContactMs,
        failures: this.#failures,
        lastError: this.#lastError || (this.#watch?.lastError ?? ''),
      },
    ];
  }

  foreignObjects(): number {
    return [...this.#memory.values()].reduce((sum, { foreign }) => sum + foreign, 0);
  }

  announce(): void {
    // Files have no events; whatever there is to say stands in the log, too.
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#watch?.close();
    await this.#scanning;
  }

  /** One scan at a time; whatever happens during one calls for exactly one more. */
  #scanSoon(): void {
    if (this.#stopped) return;
    if (this.#scanning) {
      this.#scanAgain = true;
      return;
    }
    this.#scanning = this.#scan()
      .catch((error: unknown) => this.#fail(messageOf(error)))
      .finally(() => {
        this.#scanning = null;
        if (this.#scanAgain) {
          this.#scanAgain = false;
          this.#scanSoon();
        }
      });
  }

  async #scan(): Promise<void> {
    const files = await this.#list();
    if (files === null || this.#stopped) return;
    // Before reading: what changes while we read must stir the watch.
    this.#watch!.follow(await directoriesOf(this.#target, files));
    const readings = new Map<string, FileReading | null>();
    for (const file of await this.#goneFiles(files)) {
      readings.set(file, null);
      this.#settleProblems(file, new Map());
      this.#memory.delete(file);
    }
    const recalled: RecordChange[] = [];
    for (const file of files) {
      if (this.#stopped) return;
      if (!this.#memory.has(file)) recalled.push(...(await this.#recall(file)));
      const reading = await this.#readIfChanged(file);
      if (reading) readings.set(file, reading);
    }
    if (this.#stopped) return;
    const changes = [...recalled, ...this.#state!.update(readings)];
    await this.#withCopies(() => this.#copies.prune(files));
    if (!this.#copiesFailed) this.#book!.clear(`copies of ${this.#target}`);
    this.#copiesFailed = false;
    this.#lastContactMs = Date.now();
    if (changes.length > 0) this.#listener!.onChanges(changes);
    if (!this.#synced) {
      this.#synced = true;
      this.#listener!.onSynced();
    }
  }

  /** Null when the directory cannot be listed: then everything stays as it was. */
  async #list(): Promise<string[] | null> {
    const object = `path ${this.#target}`;
    try {
      const files = await listManifests(this.#target);
      this.#book!.clear(object);
      return files;
    } catch (error) {
      // A file that was deleted takes its objects along. A directory that is gone as a whole is rather an
      // unmounted disk or a deployment under way than the wish to stop all services.
      if (isGone(error) && !this.#isDirectory) return [];
      const reason = isGone(error) ? 'the directory is gone; what it said stays in force' : messageOf(error);
      this.#report({ code: 'TP_BAD_MANIFEST', object, reason }, this.#target);
      this.#fail(`${this.#target}: ${reason}`);
      this.#watch!.follow(await directoriesOf(this.#target, []));
      return null;
    }
  }

  /** Files that are gone, looked at twice: some editors delete a file before they write it anew. */
  async #goneFiles(files: readonly string[]): Promise<readonly string[]> {
    const present = new Set(files);
    const missing = [...this.#memory.keys()].filter((file) => !present.has(file));
    if (missing.length === 0) return missing;
    await sleep(this.#times.quietMs);
    const gone: string[] = [];
    for (const file of missing) {
      await stat(file).then(
        () => (this.#scanAgain = true),
        (error: unknown) => isGone(error) && gone.push(file),
      );
    }
    return gone;
  }

  /** What a file that was not read before said to a predecessor counts as what it said before. */
  async #recall(file: string): Promise<readonly RecordChange[]> {
    const memory = { stamp: '', problems: new Set<string>(), foreign: 0, unfinished: null, said: '' };
    this.#memory.set(file, memory);
    const copy = await this.#withCopies(() => this.#copies.read(file));
    if (!copy) return [];
    const now = await readManifest(file).catch(() => null);
    if (now?.text === copy) return [];
    if (copy.length <= SAID_LENGTH_MAX) memory.said = copy;
    return this.#state!.update(new Map([[file, await readDocuments(copy)]]));
  }

  /** Copies are for another day: what is wrong with them is told and holds nothing up. */
  async #withCopies<T>(work: () => Promise<T>): Promise<T | null> {
    try {
      return await work();
    } catch (error) {
      this.#copiesFailed = true;
      const object = `copies of ${this.#target}`;
      this.#report({ code: 'TP_NOT_KEPT', object, reason: messageOf(error) }, this.#target);
      return null;
    }
  }

  async #readIfChanged(file: string): Promise<FileReading | null> {
    const memory = this.#memory.get(file)!;
    for (let attempt = 1; ; attempt++) {
      try {
        // A file that cannot be read is not tried again before something about it changes.
        const seen = await stampOf(file);
        if (seen === memory.stamp) return null;
        memory.stamp = seen;
        const { text, stamp } = await readManifest(file);
        memory.stamp = stamp;
        // The beginning of what the file said is no news: it is being written again.
        if (isBeginning(text, memory.said) && this.#mayGrow(memory)) return null;
        const reading = await this.#readText(file, text);
        if (reading && !/[\n}\]]\s*$/.test(text.slice(-100)) && this.#mayGrow(memory))
          return { ...reading, torn: true };
        if (reading) memory.said = text.length <= SAID_LENGTH_MAX ? text : '';
        if (reading && isFaultless(reading)) await this.#withCopies(() => this.#copies.keep(file, text));
        return reading;
      } catch (error) {
        if (isGone(error)) return null;
        if (messageOf(error) === 'is being written') {
          memory.stamp = '';
          if (attempt < WRITING_RETRIES_MAX && !this.#stopped) {
            await sleep(this.#times.quietMs);
            continue;
          }
        }
        this.#refuseFile(file, messageOf(error));
        return null;
      }
    }
  }

  async #readText(file: string, text: string): Promise<FileReading | null> {
    if (text.trim() === '' && this.#state!.hasObjects(file)) {
      // Most likely truncated by somebody who is about to write it.
      this.#refuseFile(file, 'is empty; delete it, or leave a comment in it, to remove its objects');
      return null;
    }
    const reading = await readDocuments(text);
    const problems = new Map<string, { code: ErrorCode; reason: string }>();
    for (const { code, label, reason } of reading.problems) {
      problems.set(`file ${oneLine(file)} ${label}`, { code, reason });
    }
    this.#settleProblems(file, problems);
    this.#memory.get(file)!.foreign = reading.foreign;
    this.#lastError = '';
    return reading;
  }

  /**
   * Half a YAML file is often valid YAML. One that looks like half (it does not end with a line end or a closing
   * bracket, or is the beginning of what it said) may still be growing: nothing that it lacks is removed before
   * it has stayed the same for a while.
   */
  #mayGrow(memory: FileMemory): boolean {
    const waitMs = this.#times.quietMs * UNFINISHED_QUIETS;
    const now = performance.now();
    if (memory.unfinished?.stamp !== memory.stamp) memory.unfinished = { stamp: memory.stamp, sinceMs: now };
    const leftMs = memory.unfinished.sinceMs + waitMs - now;
    if (leftMs <= 0) return false;
    memory.stamp = '';
    this.#watch!.callIn(leftMs);
    return true;
  }

  #refuseFile(file: string, reason: string): void {
    const object = `file ${oneLine(file)}`;
    this.#settleProblems(file, new Map([[object, { code: 'TP_BAD_MANIFEST', reason }]]));
    this.#fail(`${object} ${reason}`);
  }

  /** Reports the problems that a file has now and takes back those that it had before. */
  #settleProblems(file: string, now: ReadonlyMap<string, { code: ErrorCode; reason: string }>): void {
    const before = this.#memory.get(file)?.problems ?? new Set();
    for (const object of before) if (!now.has(object)) this.#book!.clear(object);
    for (const [object, problem] of now) this.#report({ object, ...problem }, file);
    const memory = this.#memory.get(file);
    if (memory) memory.problems = new Set(now.keys());
  }

  #report(problem: { code: ErrorCode; object: string; reason: string }, origin: string): void {
    this.#book!.report({ ...problem, origin });
  }

  #fail(reason: string): void {
    this.#failures++;
    this.#lastError = reason;
  }
}

function isFaultless({ torn, claims }: FileReading): boolean {
  return !torn && [...claims.values()].every(({ record, reason }) => record !== null && reason === '');
}

function isBeginning(text: string, said: string): boolean {
  return text.length < said.length && text.trim() !== '' && said.startsWith(text);
}

/**
 * Reads Services, EndpointSlices, Nodes and ServiceCIDRs from a YAML or JSON file, or from those of a
 * directory. start() throws TriplaneError TP_BAD_MANIFEST when the path does not exist or cannot be read.
 */
export function createManifestSource(target: string, options: ManifestOptions = {}): ManifestSource {
  return new ManifestWatcher(target, options);
}
