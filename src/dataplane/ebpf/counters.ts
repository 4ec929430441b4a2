/** tp_counters: one row for each counter, one number for each processor. */
import { readFileSync } from 'node:fs';
import { bpfNative } from './native.ts';

/** Possible processors, of which some may be off: the kernel keeps a place for each. */
export function possibleCpus(): number {
  const last = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim().split(/[-,]/).at(-1);
  return Number(last) + 1;
}

export function readCounters<Name extends string>(fd: number, names: readonly Name[]): Record<Name, number> {
  const bytes = 8 * possibleCpus();
  const found = {} as Record<Name, number>;
  names.forEach((name, i) => {
    const value = bpfNative().bpfMapLookup(fd, new Uint8Array(Uint32Array.of(i).buffer), bytes);
    found[name] = value ? Number(new BigUint64Array(value.buffer).reduce((sum, n) => sum + n, 0n)) : 0;
  });
  return found;
}
