// What the scripts know of this checkout's files.
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';

export const root = path.resolve(import.meta.dirname, '../..');

export function inRoot(...parts) {
  return path.join(root, ...parts);
}

/**
 * The newest modification time (ms since the epoch) under the given paths of this checkout, 0 if none exists.
 * Folders count as well: removing a file changes only its folder.
 */
export function newestUnder(...names) {
  let newest = 0;
  for (const name of names) {
    const file = inRoot(name);
    if (!existsSync(file)) continue;
    const stats = statSync(file);
    newest = Math.max(newest, stats.mtimeMs);
    if (!stats.isDirectory()) continue;
    for (const entry of readdirSync(file, { withFileTypes: true, recursive: true })) {
      newest = Math.max(newest, statSync(path.join(entry.parentPath, entry.name)).mtimeMs);
    }
  }
  return newest;
}

/** Whether `made` has to be made again: it is missing, or a source is newer. */
export function isStale(made, ...sources) {
  const file = inRoot(made);
  return !existsSync(file) || statSync(file).mtimeMs <= newestUnder(...sources);
}
