import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { ServiceRecord } from '../../../src/model/records.ts';
import { createKubernetesSource, type KubernetesOptions } from '../../../src/source/kubernetes/source.ts';
import type { Source } from '../../../src/source/source.ts';
import { type ApiRequest, type FakeApiOptions, FakeApiServer } from '../../support/apiserver.ts';
import { Recorder } from '../../support/recorder.ts';
import { TEST_CERT, TEST_KEY } from '../../support/tls.ts';
import { node, service, serviceCidr, slice } from '../decode/objects.ts';

let api: FakeApiServer;
let source: Source | null;
let seen: Recorder;
let dir: string;

// The recorder gives up first, and says what it was waiting for.
vi.setConfig({ testTimeout: 60_000 });

beforeEach(() => {
  source = null;
  seen = new Recorder();
  dir = mkdtempSync(path.join(tmpdir(), `triplane-api-${process.pid}-`));
});

afterEach(async () => {
  await source?.stop();
  await api?.close().catch(() => {});
  rmSync(dir, { recursive: true, force: true });
});

const FAST: Partial<KubernetesOptions> = {
  backoffMinMs: 5,
  backoffMaxMs: 50,
  requestTimeoutMs: 5_000,
  pageSize: 3,
};

async function serve(options: FakeApiOptions = {}): Promise<void> {
  api = await new FakeApiServer(options).listen();
}

async function start(options: Partial<KubernetesOptions> = {}): Promise<void> {
  source = createKubernetesSource({ nodeName: 'worker-1', master: api.url, ...FAST, ...options });
  await source.start(seen);
}

async function synced(): Promise<void> {
  await seen.until('synced', () => seen.synced === 1);
}

const svc = (name: string, port = 80) => service({ ports: [{ port }] }, { name });
const named = (count: number) => Array.from({ length: count }, (_, i) => svc(`s${i}`));
const portOf = (name: string) =>
  (seen.records.get(`Service default/${name}`) as ServiceRecord | undefined)?.ports[0]?.port;
const count = (matches: (request: ApiRequest) => boolean) => api.requests.filter(matches).length;
const lists = (request: ApiRequest) => request.resource === 'services' && request.verb === 'list';
const watches = (request: ApiRequest) => request.resource === 'services' && request.verb === 'watch';
const deletions = () => seen.log.filter((line) => line.startsWith('delete'));
const WAYS = [
  ['a watch-list', 'yes'],
  ['list and watch', 'no'],
] as const;

describe.each(WAYS)('kubernetes source by %s', (_way, watchList) => {
  it('delivers the state and follows changes', async () => {
    await serve({ watchList });
    api.set('services', ...named(8));
    api.set('endpointslices', slice());
    api.set('nodes', node(), node({}, { name: 'worker-2' }));
    api.set('servicecidrs', serviceCidr(['10.200.0.0/16']));
    await start();
    await synced();
    expect(seen.keys()).toEqual([
      'EndpointSlice default/web-abc12',
      'Node worker-1',
      ...named(8).map((_, i) => `Service default/s${i}`),
      'ServiceCIDR kubernetes',
    ]);
    await seen.until('all watches', () => api.watching === 4);
    api.set('services', svc('new'), svc('s1', 81));
    api.delete('services', 'default/s2');
    api.delete('endpointslices', 'default/web-abc12');
    await seen.until('the changes', () => portOf('new') === 80 && portOf('s1') === 81);
    await seen.until('the deletions', () => deletions().length === 2);
    expect(source!.health().map(({ what, synced, failures }) => [what, synced, failures])).toEqual(
      ['services', 'endpointslices.discovery.k8s.io', 'servicecidrs.networking.k8s.io', 'nodes'].map(
        (name) => [
          `API ${name}`,
          true,
          // A server that refuses the watch-list is asked once, and that is no failure.
          0,
        ],
      ),
    );
    expect(count(lists)).toBe(watchList === 'yes' ? 0 : 3);
    expect(seen.problems.size).toBe(0);
  });

  it('uses the selectors of kube-proxy, and objects come and go with their labels', async () => {
    await serve({ watchList });
    const foreign = service(
      {},
      { name: 'mesh', labels: { 'service.kubernetes.io/service-proxy-name': 'x' } },
    );
    api.set('services', svc('a'), foreign, service({ clusterIP: 'None' }, { name: 'headless' }));
    api.set(
      'endpointslices',
      slice({}, { labels: { 'kubernetes.io/service-name': 'h', 'service.kubernetes.io/headless': '' } }),
    );
    await start();
    await synced();
    expect(seen.keys()).toEqual(['Service default/a']);
    expect(api.requests[0]!.query.get('labelSelector')).toBe('!service.kubernetes.io/service-proxy-name');
    expect(api.requests[0]!.query.get('fieldSelector')).toBe('spec.clusterIP!=None');
    await seen.until('all watches', () => api.watching === 4);
    api.set(
      'services',
      service({}, { name: 'a', labels: { 'service.kubernetes.io/service-proxy-name': 'x' } }),
    );
    api.set('services', svc('mesh'));
    await seen.until('the swap', () => portOf('a') === undefined && portOf('mesh') === 80);
  });

  it('counts as complete without a Node object and without ServiceCIDRs', async () => {
    await serve({ watchList, resources: ['services', 'endpointslices', 'nodes'] });
    await start();
    await synced();
    expect(seen.records.size).toBe(0);
    await seen.until('all watches', () => api.watching === 3);
    api.set('nodes', node());
    await seen.until('the node', () => seen.records.has('Node worker-1'));
    expect(seen.problems.size).toBe(0);
  });

  it('waits for ServiceCIDRs, but not for a server that fails to tell them', async () => {
    await serve({ watchList });
    api.set('servicecidrs', serviceCidr(['10.200.0.0/16']));
    const failure = { do: 'status', status: 500, reason: 'InternalError', message: 'no' } as const;
    api.fail(failure, (r) => r.resource === 'servicecidrs', 4);
    await start();
    await synced();
    expect(seen.problems.has('API servicecidrs.networking.k8s.io')).toBe(true);
    expect(seen.records.size).toBe(0);
    await seen.until('the ranges', () => seen.records.has('ServiceCIDR kubernetes'));
  });

  it('goes on where it was after every way in which a watch can end', async () => {
    await serve({ watchList });
    api.set('services', svc('a'));
    await start();
    await synced();
    const kills: (() => void)[] = [
      () => api.endWatches(),
      () => api.resetConnections(),
      () => api.inject('services', '{"type":"MODIFIED","object":{"metadata":{"na'),
      () => api.inject('services', 'no JSON at all\n'),
      () => api.inject('services', '{"type":"DREAM","object":{}}\n'),
      () =>
        api.inject(
          'services',
          '{"type":"ERROR","object":{"kind":"Status","code":500,"reason":"InternalError"}}\n',
        ),
    ];
    for (const [i, kill] of kills.entries()) {
      await seen.until('all watches', () => api.watching === 4);
      kill();
      if (i === 2) api.resetConnections();
      api.set('services', svc('a', 100 + i));
      await seen.until(`change ${i}`, () => portOf('a') === 100 + i);
    }
    expect(deletions()).toEqual([]);
    expect(count((request) => watches(request) && request.query.has('sendInitialEvents'))).toBe(1);
    expect(count((request) => lists(request) && !request.query.has('continue'))).toBe(
      watchList === 'yes' ? 0 : 1,
    );
  });

  it('lists anew when history is gone, and deletes only what is really gone', async () => {
    await serve({ watchList });
    api.set('services', ...named(5));
    await start();
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    seen.log.length = 0;
    api.fail({ do: 'reset' }, watches, 2);
    api.resetConnections();
    api.set('services', svc('s0', 81));
    api.delete('services', 'default/s1');
    api.compact();
    await seen.until('the new state', () => portOf('s0') === 81 && portOf('s1') === undefined);
    expect(seen.log).toEqual(['set Service default/s0', 'delete Service default/s1']);
  });

  it.each([
    [
      'an ERROR event',
      { do: 'lines', lines: ['{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}'] },
    ],
    ['an HTTP status', { do: 'status', status: 410, reason: 'Expired' }],
  ] as const)('lists anew after 410 as %s', async (_what, fault) => {
    await serve({ watchList });
    api.set('services', ...named(5));
    await start();
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    api.fail(fault, (request) => watches(request) && !request.query.has('sendInitialEvents'));
    api.resetConnections();
    await seen.until('all watches again', () => api.watching === 4);
    api.set('services', svc('s0', 81));
    await seen.until('a change', () => portOf('s0') === 81);
    expect(deletions()).toEqual([]);
  });

  it('changes nothing while the server is away, and takes the state of the one that comes back', async () => {
    await serve({ watchList });
    api.set('services', svc('a'), svc('b'));
    await start();
    await synced();
    const { port } = api;
    await api.close();
    await seen.until('a problem', () => seen.problems.size === 4);
    expect(seen.keys()).toEqual(['Service default/a', 'Service default/b']);
    expect(seen.problems.get('API services')).toMatchObject({
      code: 'TP_API',
      origin: `http://127.0.0.1:${port}`,
    });
    await serve({ watchList, port, version: 5_000 });
    api.set('services', svc('b', 81), svc('c'));
    await seen.until(
      'the new state',
      () => portOf('a') === undefined && portOf('b') === 81 && portOf('c') === 80,
    );
    await seen.until('no problems', () => seen.problems.size === 0);
  });

  it('follows a server that was set back to an older state', async () => {
    await serve({ watchList, version: 9_000 });
    api.set('services', svc('a'), svc('b'));
    await start();
    await synced();
    const { port } = api;
    await api.close();
    await serve({ watchList, port, version: 7 });
    api.set('services', svc('b'));
    await seen.until('the old state', () => portOf('a') === undefined);
    expect(seen.log).not.toContain('delete Service default/b');
    await seen.until('all watches', () => api.watching === 4);
    api.set('services', svc('b', 81));
    await seen.until('a change', () => portOf('b') === 81);
  });

  it('refuses a bad object alone, keeps what it was, and forgets the problem with the object', async () => {
    await serve({ watchList });
    api.set('services', svc('a'), svc('b', 99_999), service({}, { name: 'x"y\u001b' }));
    await start();
    await synced();
    expect(seen.keys()).toEqual(['Service default/a']);
    expect([...seen.problems.keys()].sort()).toEqual([
      'Service "default" / "x\\"y\\u001b"',
      'Service default/b',
    ]);
    await seen.until('all watches', () => api.watching === 4);
    api.set('services', svc('a', 0), svc('b'));
    await seen.until('the next bad one', () => seen.problems.has('Service default/a') && portOf('b') === 80);
    expect(portOf('a')).toBe(80);
    api.delete('services', 'default/a');
    api.delete('services', 'default/x"y\u001b');
    await seen.until('no problems', () => seen.problems.size === 0);
    expect(seen.keys()).toEqual(['Service default/b']);
  });

  it('names the verb, the resource and RBAC when it is forbidden, and tries on', async () => {
    await serve({ watchList });
    api.set('services', svc('a'));
    api.fail(
      { do: 'status', status: 403, reason: 'Forbidden', message: 'services is forbidden: User "x"' },
      (r) => r.resource === 'services',
      3,
    );
    const said: string[] = [];
    const onProblem = seen.onProblem.bind(seen);
    seen.onProblem = (problem) => {
      said.push(problem.reason);
      onProblem(problem);
    };
    await start();
    await synced();
    expect(said[0]).toBe(
      'cannot watch services: 403 Forbidden services is forbidden: User "x"; RBAC must grant list and watch on services',
    );
    expect(seen.problems.size).toBe(0);
  });

  it('is well again when a watch stands, though nothing comes by it', async () => {
    await serve({ watchList });
    api.set('services', svc('a'));
    await start();
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    const forbidden = { do: 'status', status: 403, reason: 'Forbidden', message: 'not yet' } as const;
    api.fail(forbidden, (r) => r.resource === 'services', 2);
    api.resetConnections();
    await seen.until('a problem', () => seen.problems.has('API services'));
    await seen.until('no problem', () => seen.problems.size === 0);
    expect(source?.health().filter(({ lastError }) => lastError !== '')).toEqual([]);
  });

  it.each([
    ['a page of a proxy', '<html>Bad gateway</html>'],
    ['an empty object', '{}'],
    ['a Status', '{"kind":"Status","apiVersion":"v1","metadata":{"resourceVersion":"1"}}'],
    ['nothing', ''],
  ])('does not take %s with status 200 for an empty cluster', async (_what, body) => {
    await serve({ watchList });
    api.set('services', ...named(2));
    await start();
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    api.fail({ do: 'body', body }, (request) => request.resource === 'services', 5);
    api.compact();
    api.set('nodes', node());
    api.compact();
    api.resetConnections();
    await seen.until('the end of it', () => api.watching === 4);
    api.set('services', svc('s0', 81));
    await seen.until('a change', () => portOf('s0') === 81);
    expect(deletions()).toEqual([]);
  });
});

describe('lists', () => {
  it('come in pages, and the first from the cache', async () => {
    await serve({ watchList: 'no' });
    api.set('services', ...named(7));
    await start();
    await synced();
    const queries = api.requests
      .filter(lists)
      .map(({ query }) => [query.get('limit'), query.get('resourceVersion'), query.has('continue')]);
    expect(queries).toEqual([
      ['3', '0', false],
      ['3', null, true],
      ['3', null, true],
    ]);
  });

  it('may come in one piece although pages were asked for, packed too', async () => {
    await serve({ watchList: 'no', limitOfCache: 'ignored', gzip: 'yes' });
    api.set('services', ...named(2_000));
    await start();
    await synced();
    expect(seen.records.size).toBe(2_000);
    expect(count(lists)).toBe(1);
  });

  it('start over in one piece when a continue token expires', async () => {
    await serve({ watchList: 'no' });
    api.set('services', ...named(7));
    api.fail(
      { do: 'status', status: 410, reason: 'Expired' },
      (request) => lists(request) && request.query.has('continue'),
    );
    await start();
    await synced();
    expect(seen.records.size).toBe(7);
    const last = api.requests.filter(lists).at(-1)!;
    expect([last.query.has('limit'), last.query.has('continue')]).toEqual([false, false]);
  });

  it.each([
    ['reset before the answer', { do: 'reset' }],
    ['cut off in a page', { do: 'cut', bytes: 400 }],
    ['an answer of 500', { do: 'status', status: 500, reason: 'InternalError' }],
    [
      'an answer of 429',
      { do: 'status', status: 429, reason: 'TooManyRequests', headers: { 'retry-after': '1' } },
    ],
    [
      'half a list',
      {
        do: 'body',
        body: '{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"na',
      },
    ],
  ] as const)('delete nothing before they are complete: %s', async (_what, fault) => {
    await serve({ watchList: 'no' });
    api.set('services', ...named(7));
    await start();
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    for (const page of [1, 2, 3]) {
      api.fail(fault, (request) => lists(request) && count(lists) % 3 === page % 3);
    }
    api.delete('services', 'default/s6');
    await seen.until('the first deletion', () => deletions().length === 1);
    api.fail({ do: 'reset' }, watches);
    api.resetConnections();
    api.delete('services', 'default/s0');
    api.compact();
    await seen.until('the second deletion', () => deletions().length === 2);
    expect(seen.keys()).toEqual(
      named(6)
        .slice(1)
        .map((_, i) => `Service default/s${i + 1}`),
    );
  });

  it('that hang are given up', async () => {
    await serve({ watchList: 'no' });
    api.fail({ do: 'hang' }, lists);
    api.fail({ do: 'stall', bytes: 30 }, lists);
    await start({ requestTimeoutMs: 100 });
    await synced();
    expect(source!.health()[0]!.failures).toBeGreaterThanOrEqual(2);
  });

  it('with an object beyond the limit are refused', async () => {
    await serve({ watchList: 'no' });
    api.set('services', service({}, { name: 'big', annotations: { x: 'y'.repeat(100_000) } }));
    await start({ objectBytesMax: 50_000 });
    await seen.until(
      'a problem',
      () => seen.problems.get('API services')?.reason.includes('more than 50000 bytes') === true,
    );
    expect(seen.synced).toBe(0);
  });
});

describe('watches', () => {
  it('fall back to a list where the server ignores sendInitialEvents', async () => {
    await serve({ watchList: 'ignored' });
    api.set('services', ...named(4));
    await start({ requestTimeoutMs: 100 });
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    expect(count((request) => watches(request) && request.query.has('sendInitialEvents'))).toBe(1);
    api.set('services', svc('s0', 81));
    await seen.until('a change', () => portOf('s0') === 81);
  });

  it('begin anew when a watch-list breaks off, and delete nothing meanwhile', async () => {
    await serve();
    api.set('services', ...named(7));
    api.fail({ do: 'cut', bytes: 600 }, watches, 2);
    await start();
    await synced();
    expect(seen.records.size).toBe(7);
    expect(deletions()).toEqual([]);
    expect(new Set(seen.log).size).toBe(seen.log.length);
  });

  it('that are half-open are found dead by their time', async () => {
    await serve();
    api.set('services', svc('a'));
    await start({ watchTimeoutMs: 300, watchGraceMs: 200 });
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    api.silenceWatches();
    api.set('services', svc('a', 81));
    await seen.until('the change', () => portOf('a') === 81);
  });

  it('that are half-open are found dead by missing bookmarks', async () => {
    await serve();
    api.set('services', svc('a'));
    await start({ silenceMinMs: 100, watchTimeoutMs: 3_600_000 });
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    api.bookmark('services');
    api.silenceWatches();
    api.set('services', svc('a', 81));
    await seen.until('the change', () => portOf('a') === 81);
  });

  it('resume from a bookmark', async () => {
    await serve();
    api.set('services', svc('a'));
    await start();
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    api.set('nodes', node(), node({}, { name: 'worker-2' }));
    api.compact();
    api.bookmark('services');
    const before = api.requests.length;
    // The bookmark is on its way before the end of the stream is.
    api.endWatches();
    await seen.until('all watches', () => api.watching === 4);
    const first = api.requests.slice(before).find(watches)!;
    expect([first.query.get('resourceVersion'), first.query.has('sendInitialEvents')]).toEqual([
      '103',
      false,
    ]);
  });

  it('are asked for with bookmarks and an end', async () => {
    await serve();
    await start({ watchTimeoutMs: 300_000 });
    await synced();
    for (const { query } of api.requests) {
      expect(query.get('allowWatchBookmarks')).toBe('true');
      expect(query.get('resourceVersionMatch')).toBe('NotOlderThan');
      expect(Number(query.get('timeoutSeconds'))).toBeGreaterThanOrEqual(300);
      expect(Number(query.get('timeoutSeconds'))).toBeLessThanOrEqual(600);
    }
  });

  it('with an event beyond the limit are given up, and it is said', async () => {
    await serve();
    await start({ objectBytesMax: 10_000 });
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    api.set('services', service({}, { name: 'big', annotations: { x: 'y'.repeat(20_000) } }));
    await seen.until(
      'a problem',
      () => seen.problems.get('API services')?.reason.includes('more than 10000 bytes') === true,
    );
  });
});

describe('credentials', () => {
  const kubeconfig = (user: string, cluster = '') =>
    `apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "${api.url}"${cluster}}}]
users: [{name: u, user: ${user}}]
`;
  const write = (name: string, text: string) => {
    writeFileSync(path.join(dir, name), text);
    return path.join(dir, name);
  };

  it('from a kubeconfig over TLS, checked against its CA', async () => {
    await serve({ tls: { key: TEST_KEY, cert: TEST_CERT }, token: 'secret' });
    api.set('services', svc('a'));
    const ca = Buffer.from(TEST_CERT).toString('base64');
    const kubeconfigPath = write(
      'config',
      kubeconfig('{token: secret}', `, certificate-authority-data: ${ca}`),
    );
    await start({ kubeconfigPath, master: '' });
    await synced();
    expect(seen.keys()).toEqual(['Service default/a']);
  });

  it('are not shown to a server of another CA', async () => {
    await serve({ tls: { key: TEST_KEY, cert: TEST_CERT } });
    await start({ kubeconfigPath: write('config', kubeconfig('{token: secret}')), master: '' });
    await seen.until('a problem', () => /certificate/.test(seen.problems.get('API services')?.reason ?? ''));
    expect(api.requests).toEqual([]);
  });

  it('are read again after a 401', async () => {
    await serve({ token: 'second' });
    api.set('services', svc('a'));
    const kubeconfigPath = write('config', kubeconfig('{token: first}'));
    await start({ kubeconfigPath, master: '' });
    await seen.until(
      'a problem',
      () => seen.problems.get('API services')?.reason.includes('401 Unauthorized') === true,
    );
    write('config', kubeconfig('{token: second}'));
    await synced();
    await seen.until('no problems', () => seen.problems.size === 0);
  });

  it('from a token file that rotates', async () => {
    await serve({ token: 'first' });
    api.set('services', svc('a'));
    const tokenFile = write('token', 'first\n');
    const user = `{auth-provider: {name: tokenFile, config: {tokenFile: "${tokenFile}"}}}`;
    await start({ kubeconfigPath: write('config', kubeconfig(user)), master: '' });
    await synced();
    await seen.until('all watches', () => api.watching === 4);
    write('token', 'second\n');
    api.token = 'second';
    api.resetConnections();
    await seen.until('all watches again', () => api.watching === 4);
    api.set('services', svc('a', 81));
    await seen.until('a change', () => portOf('a') === 81);
  });

  it.each(['absolute', 'relative'])(
    'from the %s tokenFile of a user, which wins over a token',
    async (kind) => {
      await serve({ token: 'first' });
      api.set('services', svc('a'));
      const file = write('token', 'first\n');
      const user = `{token: stale, tokenFile: "${kind === 'absolute' ? file : 'token'}"}`;
      await start({ kubeconfigPath: write('config', kubeconfig(user)), master: '' });
      await synced();
      write('token', 'second\n');
      api.token = 'second';
      api.resetConnections();
      api.set('services', svc('a', 81));
      await seen.until('a change', () => portOf('a') === 81);
    },
  );

  it('from an exec plugin', async () => {
    await serve({ token: 'from-plugin' });
    const answer = JSON.stringify({ kind: 'ExecCredential', status: { token: 'from-plugin' } });
    const user = `{exec: {apiVersion: client.authentication.k8s.io/v1, command: echo, args: ['${answer}']}}`;
    await start({ kubeconfigPath: write('config', kubeconfig(user)), master: '' });
    await synced();
  });

  it('of a kubeconfig go to the server that --master names', async () => {
    await serve({ token: 'secret' });
    const text = kubeconfig('{token: secret}').replace(api.url, 'https://192.0.2.1:6443');
    await start({ kubeconfigPath: write('config', text) });
    await synced();
  });

  it.each([
    ['no file', () => path.join(dir, 'missing'), /missing cannot be used: ENOENT/],
    ['no YAML', () => write('config', 'a: [b'), /cannot be used/],
    ['an empty file', () => write('config', ''), /cannot be used/],
    [
      'no context',
      () => write('config', 'apiVersion: v1\nkind: Config\nclusters: []\nusers: []\ncontexts: []\n'),
      /context/,
    ],
  ])('that cannot be used end the start: %s', async (_what, make, message) => {
    await serve();
    const failing = createKubernetesSource({ nodeName: '', kubeconfigPath: make() });
    await expect(failing.start(seen)).rejects.toMatchObject({
      code: 'TP_BAD_CONFIG',
      message: expect.stringMatching(message),
    });
    await failing.stop();
  });

  it('must come from somewhere', async () => {
    await serve();
    const host = process.env.KUBERNETES_SERVICE_HOST;
    delete process.env.KUBERNETES_SERVICE_HOST;
    try {
      const failing = createKubernetesSource({ nodeName: '' });
      await expect(failing.start(seen)).rejects.toThrow(/neither --kubeconfig, --master nor --manifests/);
    } finally {
      if (host !== undefined) process.env.KUBERNETES_SERVICE_HOST = host;
    }
  });
});

describe('stop', () => {
  it.each([
    ['while it watches', async () => synced()],
    ['while a list hangs', async () => seen.until('requests', () => api.requests.length >= 3)],
  ])('ends everything %s', async (what, ready) => {
    await serve();
    if (what.includes('hangs')) api.fail({ do: 'hang' }, () => true, 100);
    await start();
    await ready();
    await source!.stop();
    await seen.until('no connection', () => api.watching === 0);
    const { length } = seen.log;
    api.set('services', svc('late'));
    expect(seen.log).toHaveLength(length);
  });
});
