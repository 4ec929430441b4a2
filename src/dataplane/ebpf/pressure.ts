/** How full the tables are. */
import type { TableUse } from '../dataplane.ts';
import { ABI } from './abi.ts';
import { type Collected, connectionLimit } from './collector.ts';
import type { Compiler } from './compiler.ts';

export function pressureOf(compiler: Compiler, collected: Collected): TableUse[] {
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
