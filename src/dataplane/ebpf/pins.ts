/**
 * The folder of a BPF file system in which everything of ours is pinned:
 *
 *     ROOT/g1/maps/tp_frontends ...    one generation of maps; the highest number is the one in force
 *     ROOT/g1/links/tcx_ingress_3 ...  what is attached for it
 */
import { existsSync, mkdirSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import { TriplaneError } from '../../model/errors.ts';
import { lifeNative } from './native-life.ts';

const SYSTEM_BPFFS = '/sys/fs/bpf';

/** With all above it. mkdir's own `recursive` takes "read-only" for "not there" (EROFS for ENOENT). */
function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT' || path.dirname(folder) === folder) throw error;
    makeFolder(path.dirname(folder));
    mkdirSync(folder, { mode: 0o700 });
  }
}

/** Makes the root, mounting a BPF file system where there is none. Throws TP_NO_FEATURE or TP_NO_PRIVILEGE. */
export function prepareRoot(root: string): void {
  try {
    if (!lifeNative().bpfIsBpffs(root)) {
      const inSystem = root === SYSTEM_BPFFS || root.startsWith(`${SYSTEM_BPFFS}/`);
      const mountPoint = inSystem ? SYSTEM_BPFFS : root;
      if (!inSystem) makeFolder(root);
      if (!lifeNative().bpfIsBpffs(inSystem ? SYSTEM_BPFFS : path.dirname(root)))
        lifeNative().bpfMountBpffs(mountPoint);
    }
    makeFolder(root);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const kind = code === 'EPERM' || code === 'EACCES' ? 'TP_NO_PRIVILEGE' : 'TP_NO_FEATURE';
    throw new TriplaneError(kind, `no BPF file system for ${root} (--bpf-root): ${message}`, {
      cause: error,
    });
  }
}

/** Numbers of the generations under a root, in ascending order. */
export function generations(root: string): number[] {
  if (!existsSync(root)) return [];
  return readdirSync(root)
    .flatMap((name) => (/^g\d+$/.test(name) ? [Number(name.slice(1))] : []))
    .sort((a, b) => a - b);
}

export class Generation {
  readonly number: number;
  readonly dir: string;

  constructor(root: string, number: number) {
    this.number = number;
    this.dir = path.join(root, `g${number}`);
  }

  get maps(): string {
    return path.join(this.dir, 'maps');
  }

  get links(): string {
    return path.join(this.dir, 'links');
  }

  make(): void {
    makeFolder(this.maps);
    makeFolder(this.links);
  }

  linkNames(): string[] {
    return existsSync(this.links) ? readdirSync(this.links) : [];
  }

  /** Takes all pins away; what was attached by a link goes with its pin. Says what there was, one line each. */
  remove(): string[] {
    const removed: string[] = [];
    // Links first, so that no program is left without its maps.
    for (const [what, dir] of [
      ['link', this.links],
      ['map', this.maps],
    ] as const) {
      for (const name of existsSync(dir) ? readdirSync(dir) : []) {
        unlinkSync(path.join(dir, name));
        removed.push(`${what} ${name}`);
      }
      if (existsSync(dir)) rmdirSync(dir);
    }
    if (existsSync(this.dir)) rmdirSync(this.dir);
    return removed;
  }
}

/** Takes the empty root away, and the file system if it was mounted for it alone. */
export function removeRoot(root: string): void {
  if (!existsSync(root)) return;
  const own =
    lifeNative().bpfIsBpffs(root) && !lifeNative().bpfIsBpffs(path.dirname(root)) && root !== SYSTEM_BPFFS;
  if (own) lifeNative().bpfUnmount(root);
  if (readdirSync(root).length === 0 && root !== SYSTEM_BPFFS) rmdirSync(root);
}
