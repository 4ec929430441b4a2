/** How full the tables are. */
import { ABI } from './abi.ts';
import { type Collected, connectionLimit } from './collector.ts';
import type { Compiler } from './compiler.ts';

/** How full a table is. */
export interface Pressure {
  readonly table: string;
  readonly used: number;
  readonly limit: number;
}

export function pressureOf(compiler: Compiler, collected: Collected): Pressure[] {
  const { frontends, backends, pools, guards, ids, maps } = compiler;
  const { live, masqueraded, paired, affinities } = collected;
  return [
    { table: 'frontends', used: frontends.records.used, limit: frontends.records.limit },
    { table: 'backends', used: backends.records.used, limit: backends.records.limit },
    { table: 'pool_slots', used: pools.used, limit: pools.limit },
    { table: 'source_ranges', used: guards.used, limit: guards.limit },
    { table: 'names', used: ids.used, limit: ids.limit },
    { table: 'connections', used: live, limit: connectionLimit(compiler) },
    { table: 'pairs', used: paired, limit: maps.pairs.entries * ABI.BUCKET_SLOTS },
    { table: 'nat', used: masqueraded, limit: maps.nat.entries * ABI.NAT_SLOTS },
    { table: 'affinities', used: affinities, limit: maps.handles.tp_affinities!.entries },
  ];
}
