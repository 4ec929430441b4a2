/**
 * Ten switches under the load that the product promises to carry through them: 2,000 open TCP connections that exchange
 * data, 500 new ones a second, and datagram flows beside them. Says what was lost, and how long each switch took.
 *
 *     node scripts/bench.mjs switching [--open 2000] [--rate 500] [--switches 10] [--pause-ms 3000]
 */
import process from 'node:process';
import { parseArgs } from 'node:util';
import type { Mode } from '../src/dataplane/dataplane.ts';
import { SwitchWorld } from '../test/support/switch-world.ts';
import { formatTable } from './support/table.ts';

const { values } = parseArgs({
  options: {
    open: { type: 'string', default: '2000' },
    rate: { type: 'string', default: '500' },
    switches: { type: 'string', default: '10' },
    'pause-ms': { type: 'string', default: '3000' },
  },
});
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function soak(world: SwitchWorld): Promise<string[]> {
  // By so many ways do connections come, in each family.
  const ways = world.lab.plan.families.length * world.ways(4).length;
  await world.startAgent('nft');
  await world.open(Math.ceil(Number(values.open) / ways), { datagrams: 8, intervalMs: 500 });
  await world.load(Math.ceil(Number(values.rate) / ways));
  const rows: string[][] = [];
  for (let i = 0; i < Number(values.switches); i++) {
    await pause(Number(values['pause-ms']));
    const to: Mode = i % 2 === 0 ? 'ebpf' : 'nft';
    const { from, draining, durationMs } = await world.switchTo(to);
    rows.push([`${from} to ${to}`, String(draining), String(Math.round(durationMs))]);
  }
  await pause(Number(values['pause-ms']));
  const wrong = await world.stop();
  console.log(formatTable([['switch', 'stay on the old mode', 'ms'], ...rows]));
  console.log(`open ${world.opened}, exchanges ${world.exchanges}, new connections ${world.answered}`);
  return wrong;
}

const world = await SwitchWorld.create({
  label: 'soak',
  sysctls: ['net/netfilter/nf_conntrack_tcp_loose=0'],
});
try {
  const wrong = await soak(world);
  for (const line of wrong) console.log(line);
  console.log(wrong.length === 0 ? 'nothing was lost' : `${wrong.length} ways lost something`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
} finally {
  world.remove();
}
