/**
 * The fixed set (fixed/count.ts) alone: `node scripts/bench.mjs fixed [--record]`. Exit code 1: something asks more of
 * the kernel than it did. With --record what is counted now is what later runs are compared with.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { packageRoot } from '../src/node/native.ts';
import { type Counted, countWork, regressions } from './fixed/count.ts';
import { removeNamespacesAtExit } from './support/namespace.ts';
import { formatTable } from './support/table.ts';

const FILE = path.join(packageRoot(), 'bench/results/fixed.json');

removeNamespacesAtExit();
const rows = await countWork(['nft', 'ebpf']);
const table = [['one change asks of the kernel', 'services', '', 'operations', 'calls', 'bytes']];
for (const { mode, services, kind, typical } of rows)
  table.push([
    mode,
    String(services),
    kind,
    ...[typical.operations, typical.calls, typical.bytes].map(String),
  ]);
process.stdout.write(formatTable(table));
if (process.argv.includes('--record')) {
  writeFileSync(FILE, `[\n${rows.map((row) => `  ${JSON.stringify(row)}`).join(',\n')}\n]\n`);
} else {
  const worse = regressions(JSON.parse(readFileSync(FILE, 'utf8')) as Counted[], rows);
  process.stdout.write(worse === '' ? 'not more than before\n' : `${worse}\n`);
  process.exitCode = worse === '' ? 0 : 1;
}
