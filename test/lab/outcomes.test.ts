import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { defaultNodes, type PerFamily } from '../../src/lab/plan.ts';
import type { CallOptions, CallProtocol, Outcome } from '../../src/lab/results.ts';

/** Behaviours of a server that triplane-pod has not: run by nft rules in front of the pod. */
const RULES = `table inet outcomes {
  chain input { type filter hook input priority 0
    tcp dport 81 drop
    udp dport 81 drop
    tcp dport 82 reject with tcp reset
    meta l4proto { tcp, udp } th dport 83 reject with icmpx admin-prohibited
    tcp dport 8080 tcp flags & (syn|psh) == psh reject with tcp reset
  }
}`;

let lab: Lab;
beforeAll(async () => {
  lab = await createLab({ name: `outcomes-${process.pid}`, nodes: defaultNodes(1) });
  const loaded = await lab.pod('webpod1').exec(['nft', '-f', '-'], RULES);
  expect(loaded).toMatchObject({ status: 0 });
});
afterAll(() => lab?.down());

const web = (): PerFamily => lab.pod('webpod1').addresses;
const elsewhere: PerFamily = { 4: '203.0.113.9', 6: 'fd00:dead::9' };

interface Case {
  readonly title: string;
  readonly protocol: CallProtocol;
  readonly to?: () => PerFamily;
  readonly port: number;
  readonly options?: CallOptions;
  readonly outcome: Outcome;
}

const CASES: readonly Case[] = [
  { title: 'an answer', protocol: 'tcp', port: 80, outcome: 'ok' },
  {
    title: 'an answer, the client closes with FIN',
    protocol: 'tcp',
    port: 80,
    options: { close: 'fin' },
    outcome: 'ok',
  },
  {
    title: 'an answer, the server closes',
    protocol: 'tcp',
    port: 80,
    options: { close: 'server' },
    outcome: 'ok',
  },
  { title: 'an answer by HTTP', protocol: 'http', port: 80, outcome: 'ok' },
  {
    title: 'an answer by HTTP, the server closes',
    protocol: 'http',
    port: 80,
    options: { close: 'server' },
    outcome: 'ok',
  },
  { title: 'an answer by UDP', protocol: 'udp', port: 80, outcome: 'ok' },
  {
    title: 'an answer by UDP, unconnected',
    protocol: 'udp',
    port: 80,
    options: { socket: 'unconnected' },
    outcome: 'ok',
  },
  { title: 'nobody listens', protocol: 'tcp', port: 9, outcome: 'refused' },
  { title: 'nobody listens by UDP', protocol: 'udp', port: 9, outcome: 'refused' },
  {
    title: 'nobody listens by UDP, unconnected',
    protocol: 'udp',
    port: 9,
    options: { socket: 'unconnected' },
    outcome: 'refused',
  },
  { title: 'a firewall that resets', protocol: 'tcp', port: 82, outcome: 'refused' },
  { title: 'a firewall that drops', protocol: 'tcp', port: 81, outcome: 'timeout' },
  { title: 'a firewall that drops UDP', protocol: 'udp', port: 81, outcome: 'timeout' },
  { title: 'a firewall that forbids', protocol: 'tcp', port: 83, outcome: 'unreachable' },
  { title: 'a firewall that forbids UDP', protocol: 'udp', port: 83, outcome: 'unreachable' },
  { title: 'a reset after the handshake', protocol: 'tcp', port: 8080, outcome: 'reset' },
  { title: 'no route', protocol: 'tcp', to: () => elsewhere, port: 80, outcome: 'unreachable' },
  { title: 'no route for UDP', protocol: 'udp', to: () => elsewhere, port: 80, outcome: 'unreachable' },
];

describe.each([4, 6] as const)('IPv%s', (family) => {
  test.each(CASES)('$title: $outcome', async ({ protocol, to, port, options, outcome }) => {
    const address = (to ?? web)()[family]!;
    const timeoutMs = outcome === 'timeout' ? 150 : 5000;
    const result = await lab.pod('net-pod').ask(protocol, address, port, { timeoutMs, ...options });
    expect(result).toMatchObject({ outcome });
    if (outcome === 'ok') {
      expect(result).toMatchObject({
        name: 'webpod1',
        peer: lab.pod('net-pod').addresses[family],
        peerPort: result.localPort,
      });
    }
  });
});

test('something that answers but is no pod is told from one', async () => {
  const program = `require('node:net').createServer((s) => { s.on('error', () => {}); s.end('SSH-2.0-whoever\\r\\n'); })
    .listen(2222, '::', () => console.log('listening'));`;
  const server = lab
    .pod('webpod1')
    .spawn([process.execPath, '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    await new Promise((resolve) => server.stdout?.once('data', resolve));
    const result = await lab.pod('net-pod').ask('tcp', web()[6]!, 2222, { timeoutMs: 5000 });
    expect(result).toMatchObject({ outcome: 'wrong', detail: 'SSH-2.0-whoever\r' });
  } finally {
    server.kill('SIGKILL');
  }
});

describe('counting', () => {
  test('the summary adds up, and counts by pod and by peer', async () => {
    const source = lab.pod('net-pod');
    const result = await source.call('tcp', web()[4]!, 80, { count: 500, concurrency: 8, timeoutMs: 5000 });
    expect(result).toMatchObject({
      total: 500,
      pods: { webpod1: 500 },
      peers: { [source.addresses[4]!]: 500 },
    });
    expect(result.outcomes.ok).toBe(500);
    expect(result.requests).toEqual([]);
  });

  test('failures are told one by one', async () => {
    const result = await lab
      .pod('net-pod')
      .call('tcp', web()[4]!, 9, { count: 300, concurrency: 8, timeoutMs: 5000 });
    expect(result.outcomes).toMatchObject({ ok: 0, refused: 300 });
    expect(result.requests).toHaveLength(300);
  });

  test('the source port and address are those that were asked for', async () => {
    const bind = lab.client.addresses[6]!;
    const result = await lab.client.call('tcp', web()[6]!, 80, {
      count: 3,
      sourcePort: 4444,
      bind,
      timeoutMs: 5000,
    });
    expect(result.requests.map((r) => [r.outcome, r.peer, r.peerPort])).toEqual(
      Array(3).fill(['ok', bind, 4444]),
    );
  });

  test('a bad argument is refused by name and the process lives on', async () => {
    const source = lab.pod('net-pod');
    await expect(source.call('tcp', 'no-address', 80)).rejects.toThrow(/no-address/);
    await expect(source.call('tcp', web()[4]!, 80, { timeoutMs: -1 })).rejects.toThrow(/timeout-ms/);
    expect((await source.ask('tcp', web()[4]!, 80)).outcome).toBe('ok');
  });
});

describe('load and hold', () => {
  test.each([{ rate: 500 }, { concurrency: 4 }])(
    'a load with %o runs until it is stopped',
    async (options) => {
      let answered = 0;
      let enough: () => void = () => {};
      const seen = new Promise<void>((resolve) => {
        enough = resolve;
      });
      const load = await lab.pod('net-pod').load('tcp', web()[4]!, 80, {
        ...options,
        intervalMs: 20,
        timeoutMs: 5000,
        onInterval: (interval) => {
          answered += interval.pods.webpod1 ?? 0;
          if (answered > 20) enough();
        },
      });
      await seen;
      const summary = await load.stop();
      expect(summary.outcomes.ok).toBe(summary.total);
      expect(summary.pods.webpod1).toBeGreaterThanOrEqual(answered);
      expect(load.failures).toEqual([]);
    },
  );

  test('a load ends by itself at its bound', async () => {
    const load = await lab.pod('net-pod').load('udp', web()[4]!, 80, { rate: 100, durationMs: 100 });
    expect((await load.done).total).toBeGreaterThan(0);
  });

  test.each(['tcp', 'udp'] as const)('%s connections that are held see their pod end', async (protocol) => {
    const hold = await lab
      .pod('net-pod')
      .hold(protocol, web()[6]!, 80, { connections: 5, intervalMs: 20, timeoutMs: 300 });
    expect(await hold.established).toMatchObject({ open: 5, pods: { webpod1: 5 } });
    lab.pod('webpod1').kill();
    const summary = await hold.done;
    await lab.pod('webpod1').restart();
    expect(summary.outcomes.ok).toBe(0);
    expect(hold.failures).toHaveLength(5);
    expect(summary.exchanges).toBeGreaterThanOrEqual(5);
  });

  test('held connections that stand to the end are counted as such', async () => {
    const hold = await lab
      .pod('net-pod')
      .hold('tcp', web()[4]!, 80, { connections: 20, intervalMs: 10, timeoutMs: 5000 });
    await hold.established;
    const summary = await hold.stop();
    expect(summary.outcomes.ok).toBe(20);
    expect(hold.failures).toEqual([]);
  });
});
