/** What the kernel holds of a mode on a node of the lab, without the numbers that depend on the past. */
import { readdirSync } from 'node:fs';
import type { Mode } from '../../../src/dataplane/dataplane.ts';
import { withTables } from '../../../src/dataplane/ebpf/drain.ts';
import { Generation, generations } from '../../../src/dataplane/ebpf/pins.ts';
import { meaning } from '../../support/ebpf-tables.ts';
import { tableLines } from '../../support/nft-table.ts';
import type { SwitchWorld } from '../../support/switch-world.ts';

export async function kernelImage(world: SwitchWorld, mode: Mode): Promise<unknown> {
  if (mode === 'nft') {
    // A chain that no pool uses any more goes with a later change.
    const lines = await tableLines(`/run/netns/${world.node.namespace}`);
    return lines.filter((line) => !/^IPv\d (chain|rules) (pick|sticky)-/.test(line));
  }
  const folder = readdirSync('/sys/fs/bpf').find((name) => name.includes(world.lab.name));
  const pins = `/sys/fs/bpf/${folder}`;
  return withTables(new Generation(pins, generations(pins).at(-1)!), meaning);
}
