/**
 * `node scripts/bench.mjs data-path [--rounds N] [--calls N] [--lane NAME]... [--json FILE]`: what a call costs through a
 * service, beside the same call without one, on nodes that are alike but for their nftables rules. All lanes
 * run in turns; both ends of a call and the node between them work on one processor, so time is work.
 */
import { writeFileSync } from 'node:fs';
import os from 'node:os';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { BACKENDS, type Kind, Lane, PORT } from './data-path/lane.ts';
import { CLUSTER_IP, LOAD_BALANCER_IP, program, SERVICE_PORT, type Served } from './data-path/services.ts';
import { inNamespace, loadRules, removeNamespacesAtExit } from './support/namespace.ts';
import { describeMachine, headline, lookForQuiet } from './support/quiet.ts';
import { quantile } from './support/stats.ts';
import { formatTable } from './support/table.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '40' },
    calls: { type: 'string', default: '400' },
    lane: { type: 'string', multiple: true },
    json: { type: 'string' },
  },
});
const ROUNDS = Number(values.rounds);
const CALLS = Number(values.calls);
const CPU = os.cpus().length - 1;
const KINDS: readonly Kind[] = ['tcp', 'udp', 'tcp-rr', 'udp-rr'];

/** What every node does anyway: connection tracking, and a firewall's usual first rule. */
const CONNTRACK = `table ip node {
  chain forward {
    type filter hook forward priority 0;
    ct state established,related accept
    ct state invalid drop
  }
}
`;

/** A masquerade rule of a CNI plugin: then the kernel's NAT sees every connection, whoever else uses it. */
const NAT = `table ip nat {
  chain postrouting {
    type nat hook postrouting priority 100;
    ip daddr 192.0.2.0/24 masquerade
  }
}
`;

interface LanePlan {
  readonly name: string;
  readonly rules: string;
  readonly served: Served | null;
}
const BASELINE = 'conntrack';
const LANES: readonly LanePlan[] = [
  { name: 'no conntrack', rules: '', served: null },
  { name: BASELINE, rules: CONNTRACK, served: null },
  { name: 'conntrack again', rules: CONNTRACK, served: null },
  { name: 'conntrack and NAT', rules: CONNTRACK + NAT, served: null },
  { name: '10 services', rules: CONNTRACK, served: { services: 10, sourceRanges: 0 } },
  { name: '10,000 services', rules: CONNTRACK, served: { services: 10_000, sourceRanges: 0 } },
  {
    name: '10,000 services, 10,000 ranges',
    rules: CONNTRACK,
    served: { services: 10_000, sourceRanges: 10_000 },
  },
];

interface Target {
  readonly lane: Lane;
  readonly name: string;
  readonly address: string;
  readonly port: number;
}

async function makeTargets(): Promise<Target[]> {
  const targets: Target[] = [];
  // The baseline is always there.
  const plans = LANES.filter(({ name }) => !values.lane || name === BASELINE || values.lane.includes(name));
  for (const [index, plan] of plans.entries()) {
    const lane = new Lane(plan.name, index);
    if (plan.rules) prepareNode(lane.node, plan.rules);
    if (plan.served) await program(lane.node, plan.served);
    await lane.start(CPU);
    const add = (what: string, address: string, port: number) =>
      targets.push({ lane, name: `${plan.name}: ${what}`, address, port });
    add('pod', BACKENDS[0]!, PORT);
    if (!plan.served) continue;
    add('ClusterIP', CLUSTER_IP, SERVICE_PORT);
    add('load balancer', LOAD_BALANCER_IP, SERVICE_PORT);
  }
  return targets;
}

function prepareNode(netns: string, rules: string): void {
  loadRules(netns, rules);
  // Entries of closed connections go soon, so that the table does not grow from round to round.
  const timeouts = [
    'tcp_timeout_time_wait=2',
    'tcp_timeout_close=2',
    'udp_timeout=2',
    'udp_timeout_stream=2',
  ];
  inNamespace(netns, 'sysctl', '-qw', ...timeouts.map((name) => `net.netfilter.nf_conntrack_${name}`));
}

/** Microseconds a call, by kind and target, one for each round. */
type Samples = Map<Kind, Map<Target, number[]>>;

async function measure(targets: readonly Target[]): Promise<Samples> {
  const samples: Samples = new Map(KINDS.map((kind) => [kind, new Map(targets.map((t) => [t, []]))]));
  for (let round = -1; round < ROUNDS; round++) {
    for (const kind of KINDS) {
      // Every other round the other way about: what drifts hits all alike.
      for (const target of round % 2 === 0 ? targets : targets.toReversed()) {
        const took = await target.lane.call(kind, target.address, target.port, CALLS);
        // The first round is for warming up.
        if (round >= 0) samples.get(kind)!.get(target)!.push(took);
      }
    }
    process.stderr.write('.');
  }
  process.stderr.write('\n');
  return samples;
}

/** Four parts of the rounds, each spread over the whole run: how far their ratios differ is the noise. */
const PARTS = 4;

/** Lower quartile: what others on the machine take away can only make a call slower. */
function typical(samples: readonly number[]): number {
  return quantile(
    samples.toSorted((a, b) => a - b),
    0.25,
  );
}

function ratioTo(base: readonly number[], took: readonly number[]) {
  const part = (list: readonly number[], which: number) => list.filter((_, round) => round % PARTS === which);
  const ratios = Array.from(
    { length: PARTS },
    (_, which) => typical(part(took, which)) / typical(part(base, which)),
  );
  return {
    us: typical(took),
    ratio: typical(took) / typical(base),
    low: Math.min(...ratios),
    high: Math.max(...ratios),
  };
}

function report(targets: readonly Target[], samples: Samples): { text: string; rows: unknown[] } {
  const baseline = targets.find((target) => target.lane.name === BASELINE)!;
  const rows: unknown[] = [];
  const titles: Record<Kind, string> = {
    tcp: 'TCP: connect, request, answer, close',
    udp: 'UDP: new socket, request, answer',
    'tcp-rr': 'TCP: request and answer on an open connection',
    'udp-rr': 'UDP: request and answer on one socket',
  };
  const tables = KINDS.map((kind) => {
    const table = [[titles[kind], 'us', 'ratio to conntrack', 'of four parts']];
    for (const target of targets) {
      const row = ratioTo(samples.get(kind)!.get(baseline)!, samples.get(kind)!.get(target)!);
      rows.push({ kind, target: target.name, ...row });
      table.push([
        target.name,
        row.us.toFixed(1),
        row.ratio.toFixed(3),
        `${row.low.toFixed(3)}..${row.high.toFixed(3)}`,
      ]);
    }
    return formatTable(table);
  });
  return { text: tables.join('\n'), rows };
}

removeNamespacesAtExit();
const machine = describeMachine();
const quietness = await lookForQuiet(20_000);
process.stdout.write(`${headline(machine, quietness)}\n`);
const targets = await makeTargets();
const samples = await measure(targets);
for (const lane of new Set(targets.map((target) => target.lane))) await lane.stop();
const { text, rows } = report(targets, samples);
process.stdout.write(text);
if (values.json) writeFileSync(values.json, `${JSON.stringify({ machine, quietness, rows }, null, 1)}\n`);
process.exit(0);
