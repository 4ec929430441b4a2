/** The text of the metrics of traffic: what a scraper may rely on, whatever a service is called. */
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import type { TrafficSum } from '../../src/agent/status.ts';
import type { TrafficSettings } from '../../src/dataplane/traffic.ts';
import { createMetrics } from '../../src/observe/metrics.ts';
import { escapeLabel, trafficText } from '../../src/observe/traffic-text.ts';
import { TestAgent } from './support/agent.ts';

const COUNTS = { connections: 1, packetsIn: 2, bytesIn: 3, packetsOut: 4, bytesOut: 5 };

function textOf(settings: TrafficSettings, sums: readonly TrafficSum[]): string {
  const services = sums.filter(({ endpoint }) => endpoint === '');
  const endpoints = sums.filter(({ endpoint }) => endpoint !== '');
  return [...trafficText({ settings, services, endpoints })].join('');
}

const SUMS: readonly TrafficSum[] = [
  { ...COUNTS, port: 'a/b:http', endpoint: '' },
  { ...COUNTS, port: 'a/c', endpoint: '' },
  { ...COUNTS, port: 'a/b:http', endpoint: '[fd00::1]:80' },
];
const IS = /^[a-z_]+\{[a-z]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z]+="(?:[^"\\\n]|\\["\\n])*")*\} \d+$/;

describe('the text', () => {
  test.each([
    ['off', 'endpoint', []],
    ['connections', 'service', ['service_connections']],
    ['connections', 'endpoint', ['service_connections', 'endpoint_connections']],
    ['traffic', 'service', ['service_connections', 'service_packets', 'service_bytes']],
  ] as const)('level %s by %s has these metrics and no other', (level, by, names) => {
    const found = [...textOf({ level, by }, SUMS).matchAll(/^# TYPE (\S+) counter$/gm)].map(
      ([, name]) => name,
    );
    expect(found).toEqual(names.map((name) => `triplane_${name}_total`));
  });

  it('has one sample for each service port and direction', () => {
    expect(textOf({ level: 'traffic', by: 'endpoint' }, SUMS)).toContain(
      [
        '# TYPE triplane_service_bytes_total counter',
        'triplane_service_bytes_total{namespace="a",service="b",port="http",direction="in"} 3',
        'triplane_service_bytes_total{namespace="a",service="b",port="http",direction="out"} 5',
        'triplane_service_bytes_total{namespace="a",service="c",port="",direction="in"} 3',
        'triplane_service_bytes_total{namespace="a",service="c",port="",direction="out"} 5',
        '# HELP triplane_endpoint_connections_total Connections and datagram flows that got an endpoint',
        '# TYPE triplane_endpoint_connections_total counter',
        'triplane_endpoint_connections_total{namespace="a",service="b",port="http",endpoint="[fd00::1]:80"} 1',
        '',
      ].join('\n'),
    );
  });

  it('stays whole whatever a service is called', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (port, endpoint) => {
        const sums = [
          { ...COUNTS, port, endpoint: '' },
          { ...COUNTS, port, endpoint: `x${endpoint}` },
        ];
        const text = textOf({ level: 'traffic', by: 'endpoint' }, sums);
        const samples = text.split('\n').filter((line) => line !== '' && !line.startsWith('# '));
        expect(samples).toHaveLength(10);
        for (const sample of samples) expect(sample).toMatch(IS);
      }),
    );
    expect(escapeLabel('a"} 1\nup 0\\')).toBe('a\\"} 1\\nup 0\\\\');
  });

  it('comes in pieces, behind everything else', async () => {
    const agent = new TestAgent();
    const services = Array.from({ length: 5000 }, (_, i) => ({
      ...COUNTS,
      port: `ns/s${i}:p`,
      endpoint: '',
    }));
    agent.trafficNow = { settings: { level: 'traffic', by: 'service' }, services, endpoints: [] };
    const metrics = createMetrics(agent, '1');
    const pieces: string[] = [];
    for await (const piece of metrics.pieces()) pieces.push(piece);
    expect(pieces.length).toBeGreaterThan(20);
    for (const piece of pieces.slice(1)) expect(piece.length).toBeLessThan(200_000);
    expect(await metrics.text()).toMatch(/triplane_service_bytes_total\{.*\} \d+\n$/);
    expect(pieces.join('').match(/^triplane_service_bytes_total\{/gm)).toHaveLength(10_000);
    metrics.close();
  });
});
