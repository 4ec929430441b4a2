/** `triplane cleanup` in ebpf mode: no program, map, link, filter or pin of ours is left. */
import { existsSync } from 'node:fs';
import {
  addPorts,
  parsePorts,
  readReservedPorts,
  removePorts,
  writeReservedPorts,
} from '../../node/reserved-ports.ts';
import { readLinks } from '../../node/rtnetlink.ts';
import { generationMeta } from './kernel.ts';
import { detachClsact } from './links.ts';
import { restoreAcceptLocal } from './loopback.ts';
import type { Meta } from './meta.ts';
import { Generation, generations, removeRoot } from './pins.ts';

/** Says what was removed, one line each; empty: there was nothing. */
export function cleanupEbpf(root: string): string[] {
  if (!existsSync(root)) return [];
  const removed: string[] = [];
  for (const number of generations(root)) {
    const generation = new Generation(root, number);
    const meta = generationMeta(generation);
    removed.push(...generation.remove());
    if (!meta) continue;
    // An index that was given away again has no filter of ours in it: detaching finds none.
    const devices = new Set(readLinks('').map(({ index }) => index));
    for (const ifindex of meta.clsact)
      if (devices.has(ifindex) && detachClsact(ifindex, '')) removed.push(`tc filter on device ${ifindex}`);
    if (restoreAcceptLocal(meta.acceptLocalBefore)) removed.push('accept_local of lo');
    if (restorePorts(meta)) removed.push('ports in ip_local_reserved_ports');
  }
  removeRoot(root);
  return removed;
}

/** Pins alone: what else was changed went with the network namespace, and here it would be somebody else's. */
export function cleanupOrphan(root: string): string[] {
  const removed = generations(root).flatMap((number) => new Generation(root, number).remove());
  removeRoot(root);
  return removed.length > 0 ? [`${root}, ${removed.length} pins of a network namespace that is gone`] : [];
}

/** Takes out what was put in, and leaves what others put in since. */
function restorePorts({ natPorts, reservedBefore }: Meta): boolean {
  if (reservedBefore === null) return false;
  try {
    const now = parsePorts(readReservedPorts());
    const before = parsePorts(reservedBefore);
    // Of our ports, those that were reserved before us stay so.
    const others = removePorts(natPorts, removePorts(natPorts, before));
    const wanted = addPorts(removePorts(now, natPorts), others);
    if (JSON.stringify(wanted) === JSON.stringify(now)) return false;
    writeReservedPorts(wanted);
    return true;
  } catch {
    return false;
  }
}
