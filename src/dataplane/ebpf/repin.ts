/**
 * Pins of the maps, put back while this process has them open: somebody has removed them, or the BPF file system is another
 * one than before. Without them the next agent would begin with empty tables.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { type Loaded, UNPINNED } from './kernel.ts';
import { bpfNative } from './native.ts';
import { prepareRoot } from './pins.ts';

const OWN_MAP = /^tp_/;

/** Says what was put back, one line. What cannot be pinned now is tried at the next look; links say that of theirs. */
export function repinMaps(root: string, { generation, maps }: Pick<Loaded, 'generation' | 'maps'>): string[] {
  const pinOf = (name: string) => path.join(generation.maps, name);
  const missing = Object.entries(maps.handles).filter(
    ([name]) => OWN_MAP.test(name) && !UNPINNED.includes(name) && !existsSync(pinOf(name)),
  );
  if (missing.length === 0) return [];
  try {
    prepareRoot(root);
    generation.make();
    for (const [name, { fd }] of missing) bpfNative().bpfPin(fd, pinOf(name));
    return [`${missing.length} maps were not pinned any more`];
  } catch {
    return [];
  }
}
