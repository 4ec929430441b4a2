/** What the cluster hears of a health check port that cannot be had. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import type { ClusterEvent, HealthCheckPlan } from '../../src/agent/status.ts';
import { startHealthChecks } from '../../src/cli/health-checks.ts';
import { parseAddress } from '../../src/model/address.ts';
import { TestAgent } from '../observe/support/agent.ts';

// Two families' addresses: each has a failure of its own, and they take turns.
const ADDRESSES = ['127.0.0.1', '::1'].map((text) => parseAddress(text)!);
const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** Somebody else on one port of both families. */
async function takenPort(): Promise<number> {
  const blocker = createServer().listen(0, '::');
  await once(blocker, 'listening');
  ends.push(() => new Promise((resolve) => blocker.close(resolve)));
  return (blocker.address() as { port: number }).port;
}

function watch(services: readonly (readonly [name: string, port: number])[]) {
  const status = new TestAgent();
  const planOf = (list: typeof services): HealthCheckPlan => ({
    services: list.map(([name, port]) => ({ service: `default/${name}`, port, localReady: { 4: 1, 6: 1 } })),
    addresses: ADDRESSES,
  });
  const events: ClusterEvent[] = [];
  const lines: Record<'error' | 'debug', string[]> = { error: [], debug: [] };
  const note = (level: keyof typeof lines) => (_: object, text: string) => void lines[level].push(text);
  status.plan = planOf(services);
  const end = startHealthChecks({
    ...{ agent: { status, announce: (event) => void events.push(event) }, timeoutMs: () => 60_000 },
    ...{ log: { error: note('error'), debug: note('debug') }, retryMs: 5 },
  });
  ends.push(end);
  return { events, lines, plan: (list: typeof services) => status.events.onHealthChecks.emit(planOf(list)) };
}

test("is told once for each address, in kube-proxy's words, however often it is tried", async () => {
  const port = await takenPort();
  const { events, lines } = watch([['web', port]]);
  await expect.poll(() => lines.debug.length, { timeout: 30_000 }).toBeGreaterThan(10);
  const said = ADDRESSES.map((address) => {
    const at = address.includes(':') ? `[${address}]` : address;
    return `healthcheck "default/web" on port ${port}: cannot listen on ${at}:${port}: another process listens there`;
  });
  expect(lines.error.toSorted()).toEqual(said.toSorted());
  expect(events.map(({ note }) => note).toSorted()).toEqual(
    said.map((text) => `node n1 failed to start ${text}`).toSorted(),
  );
  expect(events[0]).toMatchObject({
    ...{ about: { kind: 'Service', key: 'default/web' }, type: 'Warning' },
    ...{ reason: 'FailedToStartServiceHealthcheck', action: 'Listen' },
  });
});

test('is told again of a service that went and came back, and of each service', async () => {
  const port = await takenPort();
  const { events, plan } = watch([['web', port]]);
  await expect.poll(() => events.length, { timeout: 30_000 }).toBe(2);
  plan([]);
  plan([['web', port]]);
  await expect.poll(() => events.length, { timeout: 30_000 }).toBe(4);
  plan([
    ['web', port],
    ['other', port],
  ]);
  await expect
    .poll(() => events.at(-1)?.note, { timeout: 30_000 })
    .toBe(`node n1 failed to start healthcheck "default/other" on port ${port}: service default/web has it`);
});
