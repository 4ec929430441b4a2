/** The PATCH of the Node, as an API server sees it. */
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { createKubernetesSource } from '../../../src/source/kubernetes/source.ts';
import type { RequestEvent, Source } from '../../../src/source/source.ts';

let server: http.Server | undefined;
let source: Source | undefined;
afterEach(async () => {
  await source?.stop();
  server?.closeAllConnections();
  server?.close();
});

interface Seen {
  readonly line: string;
  readonly type: string | undefined;
  readonly body: unknown;
}

async function serve(status: number, answer: string): Promise<{ master: string; seen: Seen[] }> {
  const seen: Seen[] = [];
  const own = http.createServer(async (request, response) => {
    // Lists and watches, which are not what this is about, wait for ever.
    if (request.method === 'GET') return;
    let text = '';
    for await (const chunk of request) text += String(chunk);
    const { method, url, headers } = request;
    seen.push({ line: `${method} ${url}`, type: headers['content-type'], body: JSON.parse(text) });
    response.writeHead(status, { 'Content-Type': 'application/json' }).end(answer);
  });
  server = own;
  await new Promise<void>((resolve) => own.listen(0, '127.0.0.1', resolve));
  return { master: `http://127.0.0.1:${(own.address() as AddressInfo).port}`, seen };
}

const requests: RequestEvent[] = [];
async function annotate(
  master: string,
  nodeName: string,
  annotations: Record<string, string>,
): Promise<void> {
  const started = createKubernetesSource({ master, nodeName });
  source = started;
  await started.start({
    onChanges: () => {},
    onSynced: () => {},
    onProblem: () => {},
    onProblemGone: () => {},
    onRequest: (request) => requests.push(request),
  });
  await started.annotateNode!(annotations);
}

test('is a merge patch of the annotations and of nothing else', async () => {
  const { master, seen } = await serve(200, '{}');
  requests.length = 0;
  await annotate(master, 'node-1', { 'a/b': 'c' });
  expect(seen).toEqual([
    {
      line: 'PATCH /api/v1/nodes/node-1',
      type: 'application/merge-patch+json',
      body: { metadata: { annotations: { 'a/b': 'c' } } },
    },
  ]);
  expect(requests).toMatchObject([{ method: 'PATCH', verb: 'patch', status: 200 }]);
});

test.each([
  [
    403,
    '{"kind":"Status","code":403,"reason":"Forbidden","message":"no"}',
    { status: 403, reason: 'Forbidden' },
  ],
  [404, 'a page', { status: 404, message: expect.stringContaining('a page') }],
  [500, '', { status: 500 }],
])('a refusal is told by its status: %i', async (status, answer, error) => {
  const { master } = await serve(status, answer);
  await expect(annotate(master, 'n', {})).rejects.toMatchObject(error);
});

test('a server that is not there is an error like any other', async () => {
  await expect(annotate('http://127.0.0.1:1', 'n', {})).rejects.toMatchObject({
    code: 'ECONNREFUSED',
  });
});
