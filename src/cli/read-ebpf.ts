/** What the commands do with the ebpf mode: read it back, and remove it. */
import { existsSync } from 'node:fs';
import { cleanupEbpf, cleanupOrphan } from '../dataplane/ebpf/cleanup.ts';
import { findOrphans, findRoots } from '../dataplane/ebpf/kernel.ts';
import { readConnections, readEbpf, servesAnother } from '../dataplane/ebpf/readback.ts';
import type { KernelReader } from './machinery.ts';

/** Where an agent pins unless --bpf-root says otherwise: cleaned also when what is there cannot be read. */
const DEFAULT_ROOT = '/sys/fs/bpf/triplane';

export const EBPF_READER: KernelReader = {
  async read() {
    for (const root of findRoots()) {
      const found = readEbpf(root);
      if (found) return found;
    }
    return null;
  },
  async connections() {
    return (await Promise.all(findRoots().map(readConnections))).flat();
  },
};

export async function cleanEbpf(): Promise<readonly string[]> {
  const roots = new Set(findRoots());
  // Of another network namespace's agent it would be somebody else's.
  if (existsSync(DEFAULT_ROOT) && roots.size === 0 && !servesAnother(DEFAULT_ROOT)) roots.add(DEFAULT_ROOT);
  return [...[...roots].flatMap(cleanupEbpf), ...findOrphans().flatMap(cleanupOrphan)];
}
