import { createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { parseAddress } from '../../src/model/address.ts';
import { answerHealthz, answerLivez, serveHealth } from '../../src/observe/health.ts';
import type { ListenFailure, RunningServer } from '../../src/observe/http.ts';
import { TestAgent } from './support/agent.ts';

const TIMEOUT_MS = 60_000;
const NOW = 1_700_000_100_000;
const HOST = parseAddress('127.0.0.1')!;
const T = (ms: number) => new Date(ms).toISOString();

function agentWith(change: (agent: TestAgent) => void): TestAgent {
  const agent = new TestAgent();
  change(agent);
  return agent;
}
const waiting = (sinceMs: number) => ({
  lastSyncedMs: NOW - 90_000,
  oldestQueuedMs: NOW - sinceMs,
  lastQueuedMs: NOW - 1,
});

describe('the rules', () => {
  it.each([
    ['all is well', () => {}, 200, 200],
    [
      'before the first sync',
      (a: TestAgent) => {
        a.isSynced = false;
        a.families[4] = { lastSyncedMs: 0, oldestQueuedMs: 1, lastQueuedMs: 1 };
      },
      503,
      200,
    ],
    [
      'a change waits, not too long',
      (a: TestAgent) => {
        a.families[4] = waiting(TIMEOUT_MS - 1);
      },
      200,
      200,
    ],
    [
      'a change waits as long as the time-out',
      (a: TestAgent) => {
        a.families[4] = waiting(TIMEOUT_MS);
      },
      503,
      503,
    ],
    [
      'one family of two is late',
      (a: TestAgent) => {
        a.families[6] = waiting(TIMEOUT_MS + 1);
      },
      503,
      503,
    ],
    [
      'no Node object',
      (a: TestAgent) => {
        a.nodeNow = { ...a.nodeNow, known: false, absent: true };
      },
      503,
      200,
    ],
    [
      'no Node object where none is needed',
      (a: TestAgent) => {
        a.nodeNow = { ...a.nodeNow, known: false };
      },
      200,
      200,
    ],
    [
      'the Node is being deleted',
      (a: TestAgent) => {
        a.nodeNow = { ...a.nodeNow, deleting: true };
      },
      503,
      200,
    ],
    [
      'the autoscaler’s taint',
      (a: TestAgent) => {
        a.nodeNow = { ...a.nodeNow, taints: ['a', 'ToBeDeletedByClusterAutoscaler'] };
      },
      503,
      200,
    ],
    [
      'another taint',
      (a: TestAgent) => {
        a.nodeNow = { ...a.nodeNow, taints: ['DeletionCandidateOfClusterAutoscaler'] };
      },
      200,
      200,
    ],
  ])('%s', (_name, change, healthz, livez) => {
    const agent = agentWith(change);
    expect(answerHealthz(agent, TIMEOUT_MS, NOW).code).toBe(healthz);
    expect(answerLivez(agent, TIMEOUT_MS, NOW).code).toBe(livez);
  });

  it('the body is kube-proxy’s, in its order', () => {
    const agent = agentWith((a) => {
      a.families = { 4: waiting(1), 6: { lastSyncedMs: NOW - 5, oldestQueuedMs: 0, lastQueuedMs: 0 } };
    });
    const status = `"status":{"IPv4":{"lastUpdated":"${T(NOW - 90_000)}","healthy":true},"IPv6":{"lastUpdated":"${T(NOW - 5)}","healthy":true}}`;
    expect(JSON.stringify(answerHealthz(agent, TIMEOUT_MS, NOW).body)).toBe(
      `{"lastUpdated":"${T(NOW)}","currentTime":"${T(NOW)}","nodeEligible":true,"healthy":true,${status}}`,
    );
    expect(JSON.stringify(answerLivez(agent, TIMEOUT_MS, NOW).body)).toBe(
      `{"lastUpdated":"${T(NOW)}","currentTime":"${T(NOW)}","healthy":true,${status}}`,
    );
  });

  it('an unhealthy answer tells when it was last well', () => {
    const late = agentWith((a) => {
      a.families[4] = waiting(TIMEOUT_MS);
    });
    expect(answerLivez(late, TIMEOUT_MS, NOW).body).toEqual({
      lastUpdated: T(NOW - 90_000),
      currentTime: T(NOW),
      healthy: false,
      status: { IPv4: { lastUpdated: T(NOW - 90_000), healthy: false } },
      reasons: ['a change of IPv4 waits for too long'],
    });
    const never = agentWith((a) => {
      a.isSynced = false;
      a.families[4] = null;
    });
    expect(answerHealthz(never, TIMEOUT_MS, NOW).body.lastUpdated).toBe('0001-01-01T00:00:00Z');
  });
});

describe('the reasons of a 503', () => {
  const holdup = {
    brief: 'not all is known yet of: API services',
    detail: 'connect ECONNREFUSED 10.0.0.1:6443',
  };
  const notYet = (a: TestAgent) => {
    a.isSynced = false;
    a.families[4] = { lastSyncedMs: 0, oldestQueuedMs: 1, lastQueuedMs: 1 };
    a.holdupNow = holdup;
  };
  const gone = (a: TestAgent) => {
    a.nodeNow = { ...a.nodeNow, known: false, absent: true };
  };
  it.each<[string, (agent: TestAgent) => void, readonly string[] | undefined, readonly string[] | undefined]>(
    [
      ['none where all is well', () => {}, undefined, undefined],
      ['what the first full state waits for', notYet, [holdup.brief], undefined],
      [
        'that, and the Node',
        (a) => {
          notYet(a);
          gone(a);
        },
        [holdup.brief, 'there is no Node n1, or it is not known yet'],
        undefined,
      ],
      [
        'a change that the kernel refuses',
        (a) => {
          a.families[4] = waiting(TIMEOUT_MS);
          a.holdupNow = { brief: 'the kernel refused what it was told last', detail: 'a lot' };
        },
        ['a change of IPv4 waits for too long: the kernel refused what it was told last'],
        ['a change of IPv4 waits for too long: the kernel refused what it was told last'],
      ],
      [
        'a Node that goes',
        (a) => {
          a.nodeNow = { ...a.nodeNow, deleting: true };
        },
        ['Node n1 is being deleted'],
        undefined,
      ],
      [
        'a Node that the autoscaler takes',
        (a) => {
          a.nodeNow = { ...a.nodeNow, taints: ['ToBeDeletedByClusterAutoscaler'] };
        },
        ['Node n1 has the taint ToBeDeletedByClusterAutoscaler'],
        undefined,
      ],
    ],
  )('%s', (_name, change, healthz, livez) => {
    const agent = agentWith(change);
    const answer = answerHealthz(agent, TIMEOUT_MS, NOW);
    expect(answer.body.reasons).toEqual(healthz);
    expect(answerLivez(agent, TIMEOUT_MS, NOW).body.reasons).toEqual(livez);
    // The port is open to everybody: errors, paths and addresses are for who may open the admin socket.
    expect(JSON.stringify(answer)).not.toContain(holdup.detail);
  });
});

describe('the server', () => {
  const servers: RunningServer[] = [];
  afterEach(async () => {
    await Promise.all(servers.splice(0).map((server) => server.close()));
  });

  function start(agent: TestAgent, address: string, port = 0, onBusy: 'retry' | 'fail' = 'retry') {
    const answers: [string, number][] = [];
    const failures: ListenFailure[] = [];
    const server = serveHealth({
      bind: { address: parseAddress(address)!, port },
      status: agent,
      timeoutMs: () => TIMEOUT_MS,
      retryMs: 100,
      onBusy,
      onFailure: (failure) => failures.push(failure),
      onAnswer: (probe, code) => answers.push([probe, code]),
    });
    servers.push(server);
    return { server, answers, failures };
  }

  it('answers with kube-proxy’s headers and counts', async () => {
    const agent = new TestAgent();
    const { server, answers } = start(agent, '127.0.0.1');
    await server.listening;
    const base = `http://127.0.0.1:${server.port()}`;
    const healthz = await fetch(`${base}/healthz`);
    expect([
      healthz.status,
      healthz.headers.get('content-type'),
      healthz.headers.get('x-content-type-options'),
    ]).toEqual([200, 'application/json', 'nosniff']);
    agent.isSynced = false;
    expect((await fetch(`${base}/healthz?x=1`)).status).toBe(503);
    expect((await fetch(`${base}/livez`)).status).toBe(200);
    expect((await fetch(`${base}/other`)).status).toBe(404);
    expect(answers).toEqual([
      ['healthz', 200],
      ['healthz', 503],
      ['livez', 200],
    ]);
  });

  it.each(['0.0.0.0', '::'])('%s takes in both families', async (address) => {
    const { server } = start(new TestAgent(), address);
    await server.listening;
    for (const host of ['127.0.0.1', '[::1]']) {
      expect((await fetch(`http://${host}:${server.port()}/livez`)).status).toBe(200);
    }
  });

  it('tries again when the port is taken, or ends when it is to fail hard', async () => {
    const blocker = createServer();
    await new Promise<void>((resolve) => blocker.listen(0, HOST, resolve));
    const { port } = blocker.address() as { port: number };
    const soft = start(new TestAgent(), HOST, port);
    const hard = start(new TestAgent(), HOST, port, 'fail');
    await expect.poll(() => soft.failures.length + hard.failures.length).toBe(2);
    expect(soft.failures[0]).toEqual({
      message: `healthz: cannot listen on 127.0.0.1:${port}: another process listens there`,
      next: 'again',
    });
    expect(hard.failures[0]!.next).toBe('final');
    await new Promise((resolve) => blocker.close(resolve));
    await soft.server.listening;
    expect(soft.server.port()).toBe(port);
  }, 20_000);
});
