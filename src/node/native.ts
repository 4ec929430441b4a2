/**
 * The one loader of the native addon, and what this folder uses of it. Arguments are checked by the modules
 * that call; the addon asserts them again and throws TypeError.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import process from 'node:process';
import { TriplaneError } from '../model/errors.ts';

/** A stream of conntrack rows (src/node/conntrack.ts says their layout). */
export interface NativeConntrackDump {
  /** At least `rowsMin` rows of 128 bytes unless the dump ends before; empty at its end. */
  next(rowsMin: number): Promise<Uint8Array>;
  close(): void;
}

export interface NativeRtMonitor {
  /** Keeps the event loop alive, until unref(). */
  ref(): void;
  unref(): void;
  close(): void;
}

/** Every `netns` is the path of a network namespace, or '' for the current one. */
export interface Native {
  /** Moves the calling thread into a network namespace for good. */
  netnsEnter(netns: string): void;
  /** Rows of 112 bytes (src/node/rtnetlink.ts says their layout). */
  rtDump(netns: string, kind: number): Promise<Uint8Array>;
  rtDumpSync(netns: string, kind: number): Uint8Array;
  /** `onRows` gets null when notifications were lost. */
  RtMonitor: new (
    netns: string,
    groups: number,
    onRows: (rows: Uint8Array | null) => void,
  ) => NativeRtMonitor;
  /** Items of 40 bytes. */
  conntrackDelete(
    netns: string,
    items: Uint8Array,
  ): Promise<{ readonly deleted: number; readonly dumps: number }>;
  /** Items of 44 bytes. Resolves to how many flows were not known. */
  conntrackCreate(netns: string, items: Uint8Array): Promise<number>;
  conntrackCount(netns: string): { readonly entries: number; readonly entriesMax: number };
  ConntrackDump: new (netns: string, filter: Uint8Array) => NativeConntrackDump;
  /** A listening descriptor that the caller owns, or -1 when the name is taken. */
  lockTake(netns: string, name: string): number;
  /** The pid that holds the name; 0: it cannot be told; -1: nobody any more. */
  lockHolder(netns: string, name: string): number;
}

/** What to install where setup cannot run, by the start of the library's name. */
const DEBIAN_PACKAGES: Readonly<Record<string, string>> = {
  libmnl: 'libmnl0',
  libnftnl: 'libnftnl11',
  libbpf: 'libbpf1',
};

let loaded: Native | undefined;

/** The package's root: the folder above src/ or dist/ that holds package.json. */
export function packageRoot(): string {
  let dir = import.meta.dirname;
  while (!existsSync(path.join(dir, 'package.json'))) {
    const parent = path.dirname(dir);
    if (parent === dir) {
      throw new TriplaneError(
        'TP_NO_LIBRARY',
        'the package of triplane is incomplete: package.json is missing',
      );
    }
    dir = parent;
  }
  return dir;
}

/** build/, or another build of the addon beside it (scripts/asan.mjs makes one with a memory checker). */
function buildFolder(): string {
  const name = process.env.TRIPLANE_BUILD ?? 'build';
  return /^build(-[a-z]+)?$/.test(name) ? name : 'build';
}

/** One sentence for the person who runs the node, from what dlopen said. */
export function explainLoadError(error: unknown): string {
  const reason = (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
  const library = /(lib[\w+-]+)\.so[\w.]*(?=: cannot open shared object file)/.exec(reason);
  if (!library) return `the native addon cannot be loaded (${reason}): run npm run setup`;
  const debian = DEBIAN_PACKAGES[library[1]!];
  const install = debian ? ` (on Debian and Ubuntu: the package ${debian})` : '';
  return `the shared library ${library[0]} is missing${install}: run npm run setup`;
}

/** Throws TP_NO_LIBRARY when the addon or a shared library that it needs is missing. */
export function loadNative(): Native {
  if (loaded) return loaded;
  const file = path.join(packageRoot(), buildFolder(), 'Release/triplane.node');
  if (!existsSync(file)) {
    throw new TriplaneError('TP_NO_LIBRARY', 'the native addon is not built: run npm run setup');
  }
  try {
    loaded = createRequire(import.meta.url)(file) as Native;
  } catch (error) {
    throw new TriplaneError('TP_NO_LIBRARY', explainLoadError(error), { cause: error });
  }
  return loaded;
}
