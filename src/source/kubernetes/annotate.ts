/** One PATCH of this node's own Node object: nothing is read from the answer. */
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { apiErrorOf } from './api-error.ts';
import type { Cluster } from './cluster.ts';

const TIMEOUT_MS = 10_000;
const ERROR_BYTES_MAX = 64 * 1024;

/**
 * Sets annotations by a merge patch (RFC 7386), which leaves all others alone. Rejects with ApiError for a refusal
 * (403: RBAC grants no patch of nodes) and with an Error for what happens on the way.
 */
export async function annotateNode(
  cluster: Cluster,
  nodeName: string,
  annotations: Readonly<Record<string, string>>,
): Promise<void> {
  const body = JSON.stringify({ metadata: { annotations } });
  const options = await cluster.authorize();
  const url = new URL(`${cluster.url}/api/v1/nodes/${encodeURIComponent(nodeName)}`);
  const headers = {
    ...options.headers,
    Accept: 'application/json',
    'Content-Type': 'application/merge-patch+json',
    'Content-Length': Buffer.byteLength(body),
    'User-Agent': 'triplane',
  };
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const request = (url.protocol === 'http:' ? http : https).request(url, {
    ...options,
    ...{ headers, signal, method: 'PATCH' },
  });
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request.on('response', resolve).on('error', reject).end(body);
  });
  try {
    if (response.statusCode !== 200)
      throw apiErrorOf(response.statusCode ?? 0, await readJson(response), undefined);
  } finally {
    response.destroy();
  }
}

async function readJson(response: IncomingMessage): Promise<unknown> {
  let text = '';
  for await (const chunk of response) {
    text += String(chunk);
    if (text.length > ERROR_BYTES_MAX) break;
  }
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
