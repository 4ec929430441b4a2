/**
 * What each manifest file said when it was last without fault, kept on disk: an agent that starts over a file that
 * is broken, half written or emptied goes on with that, as the one before it did. The place is a file system in
 * memory (below /run), so that the copies live as long as the rules in the kernel do.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { isGone } from './files.ts';

function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}

export class Copies {
  /** null: none are kept. */
  readonly #folder: string | null;
  /** By file: the digest of its copy. */
  readonly #kept = new Map<string, string>();

  /** @param place where copies of all targets stand, for the owner only; '': none are kept */
  constructor(place: string, target: string) {
    this.#folder = place === '' ? null : path.join(place, digestOf(target));
  }

  /** null: there is none. Throws the file system's error when there is one that cannot be read. */
  async read(file: string): Promise<string | null> {
    if (this.#folder === null) return null;
    try {
      const text = await readFile(this.#pathOf(file), 'utf8');
      this.#kept.set(file, digestOf(text));
      return text;
    } catch (error) {
      if (isGone(error)) return null;
      throw error;
    }
  }

  /** Throws the file system's error. */
  async keep(file: string, text: string): Promise<void> {
    if (this.#folder === null) return;
    const digest = digestOf(text);
    if (this.#kept.get(file) === digest) return;
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const draft = `${this.#pathOf(file)}.draft`;
    await writeFile(draft, text, { mode: 0o600 });
    await rename(draft, this.#pathOf(file));
    this.#kept.set(file, digest);
  }

  /** Removes the copies of files that are not among these. */
  async prune(files: readonly string[]): Promise<void> {
    if (this.#folder === null) return;
    const wanted = new Set(files.map((file) => path.basename(this.#pathOf(file))));
    const names = await readdir(this.#folder).catch((error: unknown) => {
      if (isGone(error)) return [];
      throw error;
    });
    for (const name of names) if (!wanted.has(name)) await rm(path.join(this.#folder, name));
    for (const file of this.#kept.keys()) if (!files.includes(file)) this.#kept.delete(file);
  }

  #pathOf(file: string): string {
    return path.join(this.#folder ?? '', digestOf(file));
  }
}
