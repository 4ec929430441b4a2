/** Manifest files: which there are, whether one has changed, and what it holds. */
import { constants } from 'node:fs';
import { open, readdir, realpath, stat } from 'node:fs/promises';
import path from 'node:path';

/** A file must not be able to fill the memory. */
export const FILE_BYTES_MAX = 64 * 1024 * 1024;
const SUFFIX = /\.(?:ya?ml|json)$/;

/** Changes whenever a file is written, replaced, or its symlink turned to another file. */
export type Stamp = string;

export async function stampOf(file: string): Promise<Stamp> {
  const facts = await stat(file, { bigint: true });
  return `${facts.dev}:${facts.ino}:${facts.size}:${facts.mtimeNs}:${facts.ctimeNs}`;
}

function codeOf(error: unknown): string {
  return String((error as NodeJS.ErrnoException)?.code ?? '');
}

/** Whether an error of the file system says that there is nothing there. */
export function isGone(error: unknown): boolean {
  return codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR';
}

/**
 * The manifest files at a path: itself when it is a file; the *.yaml, *.yml and *.json in it when it is a
 * directory, not those deeper down and not those whose name begins with a dot (as kubectl and the kubelet).
 * Sorted by bytes. Throws the file system's error when the path cannot be read.
 */
export async function listManifests(target: string): Promise<string[]> {
  if (!(await stat(target)).isDirectory()) return [target];
  const names = (await readdir(target)).filter((name) => SUFFIX.test(name) && !name.startsWith('.'));
  const files: string[] = [];
  for (const name of names) {
    const file = path.join(target, name);
    try {
      // Follows symlinks; whatever is no regular file (a directory, a pipe) would hang or fail the reader.
      if ((await stat(file)).isFile()) files.push(file);
    } catch (error) {
      // A dangling symlink, or gone since the listing. Any other error is for the reader to report.
      if (!isGone(error)) files.push(file);
    }
  }
  return files.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

/** The directories whose events tell of changes at a path: its own, its parent, those of symlinks' targets. */
export async function directoriesOf(target: string, files: readonly string[]): Promise<string[]> {
  const found = new Set<string>([path.dirname(path.resolve(target))]);
  for (const file of [target, ...files]) {
    try {
      const real = await realpath(file);
      found.add(file === target && (await stat(real)).isDirectory() ? real : path.dirname(real));
    } catch {
      // Gone: the parent's events or the poll will tell when it is back.
    }
  }
  return [...found];
}

/**
 * The text of a file with the stamp of exactly this content. Throws an Error of one line when the file is
 * too large, not UTF-8, no regular file, or is being written right now.
 */
export async function readManifest(file: string): Promise<{ readonly text: string; readonly stamp: Stamp }> {
  const before = await stampOf(file);
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const facts = await handle.stat();
    if (!facts.isFile()) throw new Error('is no regular file');
    if (facts.size > FILE_BYTES_MAX) throw new Error(`has ${facts.size} bytes, more than ${FILE_BYTES_MAX}`);
    const bytes = await handle.readFile();
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    if ((await stampOf(file)) !== before) throw new Error('is being written');
    return { text, stamp: before };
  } finally {
    await handle.close();
  }
}
