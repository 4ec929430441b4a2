import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

export const ROOT = path.resolve(import.meta.dirname, '../..');

const NOT_OURS = new Set(['.git', 'node_modules', 'build', 'dist', 'coverage']);

function walk(folder: string): string[] {
  return readdirSync(path.join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    if (NOT_OURS.has(entry.name)) return [];
    const name = path.posix.join(folder, entry.name);
    return entry.isDirectory() ? walk(name) : [name];
  });
}

/** Every file that belongs to the project, by path from the root: git's, and new ones that git does not ignore. */
export function projectFiles(): string[] {
  // The checkout may belong to another user (containers), which git refuses to read otherwise.
  const git = spawnSync(
    'git',
    ['-c', 'safe.directory=*', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
    { cwd: ROOT, encoding: 'utf8' },
  );
  const files = git.status === 0 ? git.stdout.split('\0').filter(Boolean) : walk('');
  return files.filter((file) => existsSync(path.join(ROOT, file))).sort();
}

export function readText(file: string): string {
  return readFileSync(path.join(ROOT, file), 'utf8');
}
