/**
 * Tells that something may have changed in some directories: by inotify, and by a slow poll for what
 * inotify misses (network file systems, exhausted watches, a directory that is not there yet).
 */
import { type FSWatcher, statSync, watch } from 'node:fs';
import path from 'node:path';

/** More directories than this are left to the poll. */
const WATCHES_MAX = 64;

export interface WatchTimes {
  /** How long nothing must have happened before `onChange` is called. */
  readonly quietMs: number;
  /** How long a file that is written without end can hold `onChange` back. */
  readonly quietMaxMs: number;
  readonly pollIntervalMs: number;
}

interface Watched {
  readonly watcher: FSWatcher;
  readonly identity: string;
}

/** A directory that was removed and made again has the same path, perhaps the same inode, but another birth. */
function identityOf(directory: string): string {
  const facts = statSync(directory, { bigint: true });
  return `${facts.dev}:${facts.ino}:${facts.birthtimeNs}`;
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export class DirectoryWatch {
  readonly #times: WatchTimes;
  readonly #onChange: () => void;
  readonly #watchers = new Map<string, Watched>();
  readonly #poll: NodeJS.Timeout;
  #quiet: NodeJS.Timeout | null = null;
  #later: NodeJS.Timeout | null = null;
  #firstEventAt = 0;
  /** '' or why inotify does not work; the poll does. */
  lastError = '';

  constructor(times: WatchTimes, onChange: () => void) {
    this.#times = times;
    this.#onChange = onChange;
    this.#poll = setInterval(() => this.#fire(), times.pollIntervalMs);
  }

  /** Watches exactly these directories. Those that are watched already stay watched without a gap. */
  follow(directories: readonly string[]): void {
    const wanted = new Set(directories.slice(0, WATCHES_MAX));
    for (const directory of [...this.#watchers.keys()]) if (!wanted.has(directory)) this.#drop(directory);
    this.lastError = '';
    for (const directory of wanted) {
      try {
        this.#ensure(directory);
      } catch (error) {
        this.#drop(directory);
        this.lastError = `${directory} is polled only: ${reasonOf(error)}`;
      }
    }
  }

  /** Asks for one more `onChange`, whatever happens until then. */
  callIn(delayMs: number): void {
    if (this.#later) clearTimeout(this.#later);
    this.#later = setTimeout(this.#onChange, delayMs);
  }

  close(): void {
    clearInterval(this.#poll);
    if (this.#later) clearTimeout(this.#later);
    if (this.#quiet) clearTimeout(this.#quiet);
    for (const directory of [...this.#watchers.keys()]) this.#drop(directory);
  }

  #ensure(directory: string): void {
    const identity = identityOf(directory);
    if (this.#watchers.get(directory)?.identity === identity) return;
    this.#drop(directory);
    const watcher = watch(directory);
    this.#watchers.set(directory, { watcher, identity });
    watcher.on('change', (event, name) => {
      // inotify says so when the directory itself is removed or moved; this watch will never speak again.
      if (event === 'rename' && String(name) === path.basename(directory)) this.#drop(directory);
      this.#stir();
    });
    watcher.on('error', (error) => {
      this.#drop(directory);
      this.lastError = `${directory} is polled only: ${reasonOf(error)}`;
    });
  }

  #drop(directory: string): void {
    this.#watchers.get(directory)?.watcher.close();
    this.#watchers.delete(directory);
  }

  /** Waits until it is quiet: one save of an editor is several events, and a write is not over at its first. */
  #stir(): void {
    const now = performance.now();
    if (this.#quiet) clearTimeout(this.#quiet);
    else this.#firstEventAt = now;
    const left = this.#firstEventAt + this.#times.quietMaxMs - now;
    this.#quiet = setTimeout(() => this.#fire(), Math.max(0, Math.min(this.#times.quietMs, left)));
  }

  #fire(): void {
    if (this.#quiet) clearTimeout(this.#quiet);
    this.#quiet = null;
    this.#onChange();
  }
}
