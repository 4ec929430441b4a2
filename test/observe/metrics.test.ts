import { afterEach, describe, expect, it } from 'vitest';
import { parseAddress } from '../../src/model/address.ts';
import type { RunningServer } from '../../src/observe/http.ts';
import { createMetrics } from '../../src/observe/metrics.ts';
import { serveMetrics } from '../../src/observe/metrics-server.ts';
import { TestAgent } from './support/agent.ts';

/** name{labels} -> value */
function samples(text: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const parts = /^([a-z_][a-z0-9_]*(?:\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*\})?) (\S+)$/i.exec(line);
    if (parts === null) throw new Error(`no sample: ${line}`);
    found.set(parts[1]!, Number(parts[2]));
  }
  return found;
}

/** Every name of kube-proxy's nftables mode (pkg/proxy/metrics/metrics.go) with its type. */
const KUBE_PROXY: readonly (readonly [string, string])[] = [
  ['sync_proxy_rules_duration_seconds', 'histogram'],
  ['sync_full_proxy_rules_duration_seconds', 'histogram'],
  ['sync_partial_proxy_rules_duration_seconds', 'histogram'],
  ['sync_proxy_rules_last_timestamp_seconds', 'gauge'],
  ['sync_proxy_rules_last_queued_timestamp_seconds', 'gauge'],
  ['network_programming_duration_seconds', 'histogram'],
  ['sync_proxy_rules_endpoint_changes_pending', 'gauge'],
  ['sync_proxy_rules_endpoint_changes_total', 'counter'],
  ['sync_proxy_rules_service_changes_pending', 'gauge'],
  ['sync_proxy_rules_service_changes_total', 'counter'],
  ['sync_proxy_rules_nftables_sync_failures_total', 'counter'],
  ['sync_proxy_rules_no_local_endpoints_total', 'gauge'],
  ['proxy_healthz_total', 'counter'],
  ['proxy_livez_total', 'counter'],
  ['conntrack_reconciler_sync_duration_seconds', 'histogram'],
  ['conntrack_reconciler_deleted_entries_total', 'counter'],
];

describe('metrics', () => {
  it('have kube-proxy’s names and types', async () => {
    const text = await createMetrics(new TestAgent(), '1.2.3').text();
    for (const [name, type] of KUBE_PROXY) expect(text).toContain(`# TYPE kubeproxy_${name} ${type}\n`);
  });

  it('follow the agent', async () => {
    const agent = new TestAgent();
    const metrics = createMetrics(agent, '1.2.3');
    agent.problemsNow = [{ code: 'TP_BAD_OBJECT', object: 'Service a/b', reason: 'x', origin: '' }];
    agent.sourcesNow = [{ what: 'Service', synced: true, lastContactMs: 5000, failures: 3, lastError: '' }];
    agent.events.onSync.emit({
      scope: 'partial',
      families: [4],
      durationMs: 3,
      ok: true,
      mode: 'nft',
      operations: 9,
      refusals: 1,
      triggersMs: [Date.now() - 300, Date.now() + 60_000],
    });
    agent.events.onSync.emit({
      scope: 'full',
      families: [4, 6],
      durationMs: 3,
      ok: false,
      mode: 'nft',
      operations: 0,
      refusals: 0,
      triggersMs: [],
    });
    agent.events.onChanges.emit({ services: 4, endpoints: 6 });
    agent.events.onConntrack.emit({ family: 6, deleted: 8, durationMs: 1 });
    agent.events.onRepair.emit({ mode: 'nft', repaired: ['a', 'b'] });
    const request = { method: 'GET', verb: 'list', host: 'a:1', durationMs: 90 } as const;
    agent.events.onRequest.emit({ ...request, status: 200 });
    agent.events.onRequest.emit({ ...request, status: 0 });
    agent.events.onRequest.emit({ ...request, verb: 'watch', status: 200 });
    metrics.countProbe('healthz', 503);
    const found = samples(await metrics.text());
    const expected: Record<string, number> = {
      'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}': 2,
      'kubeproxy_sync_partial_proxy_rules_duration_seconds_bucket{le="0.004",ip_family="IPv4"}': 1,
      'kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"}': 1,
      'kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv6"}': 1,
      'kubeproxy_network_programming_duration_seconds_bucket{le="0.25",ip_family="IPv4"}': 1,
      'kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}': 2,
      'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}': 1,
      kubeproxy_sync_proxy_rules_service_changes_total: 4,
      kubeproxy_sync_proxy_rules_endpoint_changes_total: 6,
      kubeproxy_sync_proxy_rules_endpoint_changes_pending: 2,
      'kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="external",ip_family="IPv4"}': 2,
      'kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv6"}': 8,
      'kubeproxy_proxy_healthz_total{code="503"}': 1,
      'triplane_mode_info{mode="nft",requested="auto",reason="ebpf: \\"not\\" there"}': 1,
      'triplane_kernel_operations_total{mode="nft"}': 9,
      'triplane_kernel_refusals_total{mode="nft"}': 1,
      'triplane_repairs_total{mode="nft"}': 2,
      'triplane_problems{code="TP_BAD_OBJECT"}': 1,
      'triplane_source_last_contact_timestamp_seconds{what="Service"}': 5,
      'triplane_source_failures{what="Service"}': 3,
      'rest_client_requests_total{code="200",method="GET",host="a:1"}': 2,
      'rest_client_requests_total{code="<error>",method="GET",host="a:1"}': 1,
      'rest_client_request_duration_seconds_bucket{le="0.1",verb="GET",host="a:1"}': 2,
      'rest_client_request_duration_seconds_count{verb="GET",host="a:1"}': 2,
      triplane_synced: 1,
      triplane_node_eligible: 1,
      triplane_backends: 7,
    };
    for (const [name, value] of Object.entries(expected))
      expect([name, found.get(name)]).toEqual([name, value]);
    expect([...found.keys()].some((name) => name.includes('lastError'))).toBe(false);
  });

  it('forget what is gone', async () => {
    const agent = new TestAgent();
    const metrics = createMetrics(agent, '1');
    await metrics.text();
    agent.modeNow = { ...agent.modeNow, mode: 'ipvs', requested: 'ipvs', reason: 'asked for' };
    const found = [...samples(await metrics.text()).keys()].filter((name) =>
      name.startsWith('triplane_mode_info'),
    );
    expect(found).toEqual(['triplane_mode_info{mode="ipvs",requested="ipvs",reason="asked for"}']);
  });
});

describe('the degrees of a mode', () => {
  it('are a sample each', async () => {
    const agent = new TestAgent();
    agent.modeNow = {
      ...agent.modeNow,
      mode: 'ebpf',
      degrees: [
        { feature: 'tc', device: '', got: 'tcx', reason: '' },
        { feature: 'xdp', device: 'eth0', got: 'none', reason: 'its driver takes none' },
      ],
    };
    const found = [...samples(await createMetrics(agent, '1').text())].filter(([name]) =>
      name.startsWith('triplane_mode_degree_info'),
    );
    expect(found).toEqual([
      ['triplane_mode_degree_info{mode="ebpf",feature="tc",device="",got="tcx",reason=""}', 1],
      [
        'triplane_mode_degree_info{mode="ebpf",feature="xdp",device="eth0",got="none",reason="its driver takes none"}',
        1,
      ],
    ]);
  });
});

describe('the server', () => {
  let server: RunningServer | undefined;
  afterEach(() => server?.close());

  async function start(profiling: 'on' | 'off') {
    const agent = new TestAgent();
    const set: number[] = [];
    server = serveMetrics({
      bind: { address: parseAddress('127.0.0.1')!, port: 0 },
      status: agent,
      metrics: createMetrics(agent, '1'),
      profiling,
      configuration: () => ({ kind: 'KubeProxyConfiguration' }),
      flags: () => ({}),
      version: '1',
      timeoutMs: () => 1000,
      onVerbosity: (v) => set.push(v),
      onBusy: 'retry',
      onFailure: () => {},
    });
    await server.listening;
    const base = `http://127.0.0.1:${server.port()}`;
    const get = async (path: string, init?: RequestInit) => {
      const response = await fetch(base + path, init);
      return {
        code: response.status,
        type: response.headers.get('content-type'),
        text: await response.text(),
      };
    };
    return { get, set };
  }

  it('serves what kube-proxy serves', async () => {
    const { get } = await start('off');
    expect(await get('/proxyMode')).toEqual({
      code: 200,
      type: 'text/plain; charset=utf-8',
      text: 'nftables',
    });
    expect(await get('/healthz')).toMatchObject({ code: 200, text: 'ok' });
    expect(JSON.parse((await get('/configz')).text)).toEqual({
      'kubeproxy.config.k8s.io': { kind: 'KubeProxyConfiguration' },
    });
    expect((await get('/livez')).code).toBe(200);
    const metrics = await get('/metrics');
    expect(metrics.type).toMatch(/^text\/plain; version=0\.0\.4/);
    expect(samples(metrics.text).size).toBeGreaterThan(50);
    for (const path of ['/', '/debug/pprof/profile', '/debug/flags/v', '/metrics/x'])
      expect((await get(path)).code).toBe(404);
  });

  it('profiles only when told to', async () => {
    const { get, set } = await start('on');
    const profile = await get('/debug/pprof/profile?seconds=0.05');
    expect(profile.code).toBe(200);
    expect(JSON.parse(profile.text).nodes.length).toBeGreaterThan(0);
    expect(await get('/debug/flags/v', { method: 'PUT', body: '4' })).toMatchObject({ code: 200 });
    expect((await get('/debug/flags/v', { method: 'PUT', body: 'x'.repeat(1000) })).code).toBe(400);
    expect((await get('/debug/flags/v')).code).toBe(405);
    expect(set).toEqual([4]);
  });
});

describe('the tables of a mode', () => {
  it('are told with their limits, and what its programs count', async () => {
    const agent = new TestAgent();
    agent.measuresNow = {
      tables: [{ table: 'frontends', used: 3, limit: 10 }],
      packets: { new: 7, conns_full: 0 },
    };
    const found = samples(await createMetrics(agent, '1').text());
    expect(found.get('triplane_table_entries{table="frontends"}')).toBe(3);
    expect(found.get('triplane_table_entries_max{table="frontends"}')).toBe(10);
    expect(found.get('triplane_packets{what="new"}')).toBe(7);
    expect(found.get('triplane_packets{what="conns_full"}')).toBe(0);
  });
});
