/** The PATCH of the Node, as an API server sees it. */
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { annotateNode } from '../../../src/source/kubernetes/annotate.ts';
import { openCluster } from '../../../src/source/kubernetes/cluster.ts';

let server: http.Server | undefined;
afterEach(() => {
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

test('is a merge patch of the annotations and of nothing else', async () => {
  const { master, seen } = await serve(200, '{}');
  await annotateNode(await openCluster({ master }), 'node-1', { 'a/b': 'c' });
  expect(seen).toEqual([
    {
      line: 'PATCH /api/v1/nodes/node-1',
      type: 'application/merge-patch+json',
      body: { metadata: { annotations: { 'a/b': 'c' } } },
    },
  ]);
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
  await expect(annotateNode(await openCluster({ master }), 'n', {})).rejects.toMatchObject(error);
});

test('a server that is not there is an error like any other', async () => {
  await expect(
    annotateNode(await openCluster({ master: 'http://127.0.0.1:1' }), 'n', {}),
  ).rejects.toMatchObject({
    code: 'ECONNREFUSED',
  });
});
