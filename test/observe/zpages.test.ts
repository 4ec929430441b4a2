/** /statusz and /flagz: what kube-proxy 1.36.2 answers, header by header, with our own values in it. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseAddress } from '../../src/model/address.ts';
import type { RunningServer } from '../../src/observe/http.ts';
import { createMetrics } from '../../src/observe/metrics.ts';
import { serveMetrics } from '../../src/observe/metrics-server.ts';
import { TestAgent } from './support/agent.ts';

const FLAGS = { 'cluster-cidr': '', config: '/etc/x y', v: '2' };
const HEAD = (word: string) =>
  `\nkube-proxy ${word}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n`;
const structured = (type: string, version: string, kind: string) =>
  `application/${type};g=config.k8s.io;v=${version};as=${kind}`;
let server: RunningServer;

beforeAll(async () => {
  const status = new TestAgent();
  server = serveMetrics({
    ...{ bind: { address: parseAddress('127.0.0.1')!, port: 0 }, status, version: '1.2.3', profiling: 'off' },
    ...{ metrics: createMetrics(status, '1.2.3'), flags: () => FLAGS, configuration: () => ({}) },
    ...{ timeoutMs: () => 60_000, onVerbosity: () => {}, onBusy: 'fail', onFailure: () => {} },
  });
  await server.listening;
});
afterAll(() => server.close());

async function ask(page: string, accept: string) {
  const headers = { accept, connection: 'close' };
  const answer = await fetch(`http://127.0.0.1:${server.port()}${page}`, { headers });
  const [type, warning] = ['content-type', 'warning'].map((name) => answer.headers.get(name));
  return { code: answer.status, type, warning, body: await answer.text() };
}

test.each(['', '*/*', 'text/plain', 'text/*', 'application/json;q=0.9, text/plain', 'text/html, */*;q=0.8'])(
  'people get text: Accept: %s',
  async (accept) => {
    const text = { code: 200, type: 'text/plain; charset=utf-8', warning: null };
    expect(await ask('/flagz', accept)).toEqual({
      ...text,
      body: `${HEAD('flagz')}cluster-cidr \nconfig /etc/x y\nv 2\n`,
    });
    const statusz = await ask('/statusz', accept);
    expect(statusz).toMatchObject(text);
    expect(statusz.body.startsWith(`${HEAD('statusz')}\nStarted: Tue Nov 14 22:13:20 UTC 2023\nUp: `)).toBe(
      true,
    );
    expect(statusz.body).toMatch(/\nUp: \d+ hr \d\d min \d\d sec\n/);
    expect(statusz.body).toContain(
      '\nBinary version: 1.2.3\nEmulation version: 1.36\nPaths: /configz /flagz ',
    );
  },
);

test('software gets an object, in the version that it knows', async () => {
  const statusz = await ask('/statusz', structured('json', 'v1beta1', 'Statusz'));
  expect(statusz).toMatchObject({ code: 200, type: structured('json', 'v1beta1', 'Statusz'), warning: null });
  expect(JSON.parse(statusz.body)).toEqual({
    ...{ kind: 'Statusz', apiVersion: 'config.k8s.io/v1beta1', metadata: { name: 'kube-proxy' } },
    ...{ startTime: '2023-11-14T22:13:20Z', uptimeSeconds: expect.any(Number) },
    ...{ goVersion: `nodejs ${process.version}`, binaryVersion: '1.2.3', emulationVersion: '1.36' },
    paths: ['/configz', '/flagz', '/healthz', '/livez', '/metrics', '/proxyMode'],
  });
  const old = await ask('/flagz', `application/json, ${structured('json', 'v1alpha1', 'Flagz')}`);
  expect(old.warning).toBe(
    '299 - "This version of the flagz endpoint is deprecated. Please use a newer version."',
  );
  expect(JSON.parse(old.body)).toMatchObject({ apiVersion: 'config.k8s.io/v1alpha1', flags: FLAGS });
  const yaml = await ask('/flagz', structured('yaml', 'v1beta1', 'Flagz'));
  expect(yaml.body).toContain('apiVersion: config.k8s.io/v1beta1\nflags:\n  cluster-cidr: ""\n');
});

test.each([
  ...['application/json', 'text/html', structured('json', 'v1beta1', 'Flagz')],
  ...[structured('cbor', 'v1beta1', 'Statusz'), structured('json', 'v2', 'Statusz'), 'constructor', ';;=,='],
])('anything else is not acceptable: Accept: %s', async (accept) => {
  const { code, body } = await ask('/statusz', accept);
  expect(code).toBe(406);
  expect(JSON.parse(body)).toMatchObject({
    ...{ kind: 'Status', apiVersion: 'v1', status: 'Failure', reason: 'NotAcceptable', code: 406 },
    message: 'only the following media types are accepted: application/json, application/yaml, text/plain',
  });
});
