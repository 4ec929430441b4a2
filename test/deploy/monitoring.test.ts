/** Dashboard and alerts ask only for metrics that there are, by labels that they have. */
import { describe, expect, test } from 'vitest';
import { createMetrics } from '../../src/observe/metrics.ts';
import { TestAgent } from '../observe/support/agent.ts';
import { find, manifests, readDeploy } from './support.ts';

interface Panel {
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets: readonly { readonly expr: string }[];
}

const DASHBOARD = JSON.parse(readDeploy('monitoring/dashboard.json')) as { panels: Panel[] };
const RULES = find(manifests({ metrics: { rules: true } }), 'PrometheusRule').spec.groups[0].rules as {
  alert: string;
  expr: string;
}[];
const QUERIES = [
  ...DASHBOARD.panels.flatMap(({ title, targets }) => targets.map(({ expr }) => [title, expr] as const)),
  ...RULES.map(({ alert, expr }) => [alert, expr] as const),
];
/** Words of PromQL that look like names of metrics. */
const WORDS = /\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b/g;
const FUNCTIONS = new Set(['histogram_quantile', 'topk']);
/** Labels that Prometheus and the service monitor add, and the label of histogram buckets. */
const OUTER = new Set(['job', 'instance', 'node', 'le']);

async function known(): Promise<Map<string, ReadonlySet<string>>> {
  const agent = new TestAgent();
  agent.problemsNow = [{ code: 'TP_BAD_OBJECT', object: 'Service a/b', reason: 'x', origin: '' }];
  agent.sourcesNow = [{ what: 'Service', synced: true, lastContactMs: 5000, failures: 3, lastError: '' }];
  agent.measuresNow = { tables: [{ table: 'nat', used: 1, limit: 2 }], packets: { new: 1 } };
  const sum = { connections: 1, packetsIn: 1, bytesIn: 1, packetsOut: 1, bytesOut: 1, port: 'a/b:c' };
  agent.trafficNow = {
    settings: { level: 'traffic', by: 'endpoint' },
    services: [{ ...sum, endpoint: '' }],
    endpoints: [{ ...sum, endpoint: '10.0.0.1:80' }],
  };
  const metrics = createMetrics(agent, '1');
  const sync = {
    families: [4],
    durationMs: 3,
    ok: true,
    operations: 1,
    refusals: 0,
    triggersMs: [Date.now()],
  };
  agent.events.onSync.emit({ ...sync, scope: 'full', mode: 'nft' } as never);
  agent.events.onRepair.emit({ mode: 'nft', repaired: ['a'] });
  agent.events.onRequest.emit({ method: 'GET', verb: 'list', host: 'a', durationMs: 1, status: 200 });
  metrics.countProbe('healthz', 200);
  metrics.countProbe('livez', 200);
  const found = new Map<string, Set<string>>([['up', new Set()]]);
  for (const line of (await metrics.text()).split('\n')) {
    const name = /^(?:# TYPE )?([a-z_]+)/.exec(line)?.[1];
    if (name === undefined) continue;
    const labels = found.get(name) ?? new Set();
    for (const [, label] of line.startsWith('#') ? [] : line.matchAll(/[{,]([a-z_]+)="/g)) labels.add(label!);
    found.set(name, labels);
  }
  return found;
}

describe('what is asked for is there', () => {
  test.each(QUERIES)('%s: %s', async (_title, expr) => {
    const metrics = await known();
    const grouping = [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, labels]) => labels!.split(/, */));
    const matchers = [...expr.matchAll(/\{([^}]*)\}/g)].flatMap(([, inner]) =>
      [...inner!.matchAll(/([a-z_]+)\s*(?:=~|!~|!=|=)/g)].map(([, label]) => label!),
    );
    const bare = expr.replace(/\{[^}]*\}/g, '').replace(/\bby \([^)]*\)/g, '');
    const names = [...(bare.match(WORDS) ?? []), ...(/\bup\b/.test(bare) ? ['up'] : [])];
    const asked = names.filter((name) => !FUNCTIONS.has(name));
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.filter((name) => !metrics.has(name))).toEqual([]);
    const labels = new Set([...OUTER, ...asked.flatMap((name) => [...metrics.get(name)!])]);
    expect([...grouping, ...matchers].filter((label) => !labels.has(label))).toEqual([]);
  });

  test('no panel covers another, and brackets are closed', () => {
    const taken = new Set<string>();
    for (const { gridPos } of DASHBOARD.panels)
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        expect(x).toBeLessThan(24);
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.has(`${x} ${y}`)).toBe(false);
          taken.add(`${x} ${y}`);
        }
      }
    for (const [, expr] of QUERIES) expect(expr.split('(').length).toBe(expr.split(')').length);
  });
});
