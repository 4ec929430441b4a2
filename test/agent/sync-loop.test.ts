/** The loop between the real model and a dataplane without a kernel, under a clock that the tests move. */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Pending } from '../../src/agent/pending.ts';
import type { SyncEvent } from '../../src/agent/status.ts';
import { SyncLoop, type SyncParts, type SyncTimes } from '../../src/agent/sync-loop.ts';
import type { Refusal } from '../../src/dataplane/dataplane.ts';
import type { ModelChange } from '../../src/model/change.ts';
import { ClusterModel } from '../../src/model/cluster.ts';
import type { StaleFlow } from '../../src/model/conntrack.ts';
import { TriplaneError } from '../../src/model/errors.ts';
import type { ClusterRecord, RecordChange } from '../../src/model/records.ts';
import { arbitraryChange, arbitraryConfig, arbitraryFacts } from '../model/arbitrary.ts';
import { CONFIG, FACTS, ip, service, slice } from '../model/world.ts';
import { FakeDataplane } from '../support/fake-dataplane.ts';

/** Longer than any back-off and any sync period in here. */
const LONG_MS = 200_000;
const TIMES: SyncTimes = { minSyncPeriodMs: 0, syncPeriodMs: 30_000 };

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

class Bench {
  readonly model = new ClusterModel(CONFIG, FACTS);
  readonly fake = new FakeDataplane();
  readonly events: SyncEvent[] = [];
  readonly produced: ModelChange[] = [];
  readonly cleared: StaleFlow[] = [];
  readonly leftovers: StaleFlow[] = [];
  readonly repairs: (readonly string[])[] = [];
  readonly errors: string[] = [];
  refusals: readonly Refusal[] = [];
  hopeless: TriplaneError | null = null;
  /** So many of the next clearings fail. */
  clearFailures = 0;
  readonly loop: SyncLoop;

  constructor(times: SyncTimes = TIMES, over: Partial<SyncParts> = {}) {
    const parts: SyncParts = {
      model: this.model,
      log: {
        error: (_fields, message) => void this.errors.push(message),
        ...{ warn: () => {}, info: () => {}, debug: () => {}, trace: () => {} },
      },
      families: [4, 6],
      clearFlows: async (flows) => {
        if (this.clearFailures-- > 0) return flows;
        for (const flow of flows) this.cleared.push(flow);
        return [];
      },
      leftoverFlows: async () => this.leftovers,
      onProduced: (change) => void this.produced.push(change),
      onSync: (event) => void this.events.push(event),
      onRepair: (repaired) => void this.repairs.push(repaired),
      onRefusals: (refusals) => {
        this.refusals = refusals;
      },
      onHopeless: (error) => {
        this.hopeless = error;
      },
      ...over,
    };
    this.loop = new SyncLoop(parts, this.fake, times);
  }

  /** As the agent does when a source delivers. */
  change(changes: readonly RecordChange[]): void {
    this.model.apply(changes);
    this.loop.changed();
  }

  set(...records: readonly ClusterRecord[]): void {
    this.change(records.map((record) => ({ op: 'set', record })));
  }

  /** The state as a dataplane should hold it. */
  wanted(): Map<string, unknown> {
    return new Map(this.model.state.services);
  }

  expectInSync(): void {
    expect(this.fake.breaches).toEqual([]);
    expect(this.model.isDirty).toBe(false);
    expect(this.fake.held).toEqual(this.wanted());
    expect(this.fake.node).toEqual(this.model.state.node);
    expect(this.loop.progress().oldestQueuedMs).toBe(0);
  }
}

const web = (name: string, host: number) => service({ name, clusterIPs: [ip(`10.200.1.${host}`)] });
const pods = (name: string, ...addresses: string[]) =>
  slice(addresses, { name: `${name}-4`, serviceName: name, triggerMs: 1 });
const dns = (host: number) =>
  service({
    name: 'dns',
    clusterIPs: [ip(`10.200.1.${host}`)],
    ports: [{ name: '', protocol: 'UDP', port: 53, nodePort: 0 }],
  });
const dnsPods = (...addresses: string[]) =>
  slice(addresses, {
    name: 'dns-4',
    serviceName: 'dns',
    ports: [{ name: '', protocol: 'UDP', port: 5353 }],
  });
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

describe('the first state', () => {
  test('nothing is touched before begin(), whatever happens', async () => {
    const bench = new Bench();
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    bench.loop.verifySoon();
    bench.loop.setTimes({ minSyncPeriodMs: 1, syncPeriodMs: 10 });
    await pass(LONG_MS);
    expect(bench.fake.calls).toEqual([]);
    expect(bench.loop.synced).toBe(false);
    expect(bench.loop.progress().lastSyncedMs).toBe(0);
    bench.loop.begin();
    await pass(5);
    expect(bench.loop.synced).toBe(true);
    bench.expectInSync();
    expect(bench.fake.calls.map(({ what }) => what)).toEqual(['start']);
  });

  test('an empty cluster is a state too', async () => {
    const bench = new Bench();
    bench.loop.begin();
    bench.loop.begin();
    await pass(5);
    expect(bench.loop.synced).toBe(true);
    expect(bench.fake.callsOf('start')).toHaveLength(1);
    bench.expectInSync();
  });

  test('is not there until a start went well', async () => {
    const bench = new Bench();
    bench.fake.failures = 3;
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    bench.loop.begin();
    await pass(300);
    expect(bench.loop.synced).toBe(false);
    expect(bench.events.map(({ ok }) => ok)).toEqual([false, false]);
    await pass(LONG_MS);
    expect(bench.loop.synced).toBe(true);
    bench.expectInSync();
  });

  test('clears what a predecessor left, once, and only when the rules are there', async () => {
    const bench = new Bench();
    const left: StaleFlow = {
      ...{ protocol: 'UDP', address: ip('10.200.1.1'), port: 53 },
      ...{ backend: ip('10.10.1.9'), backendPort: 5353 },
    };
    bench.leftovers.push(left);
    bench.fake.failures = 1;
    bench.loop.begin();
    await pass(100);
    expect(bench.cleared).toEqual([]);
    await pass(300);
    expect(bench.cleared).toEqual([left]);
    bench.fake.failures = 1;
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    await pass(LONG_MS);
    expect(bench.cleared).toEqual([left]);
  });

  test.each(['TP_NO_LIBRARY', 'TP_NO_FEATURE', 'TP_NO_PRIVILEGE'] as const)(
    '%s at the first start is said once and ends the loop',
    async (code) => {
      const bench = new Bench();
      bench.fake.failures = 1;
      bench.fake.error = () => new TriplaneError(code, 'not here');
      bench.loop.begin();
      await pass(LONG_MS);
      expect(bench.hopeless).toMatchObject({ code });
      expect(bench.fake.calls).toHaveLength(1);
      expect(bench.loop.synced).toBe(false);
    },
  );

  test('what was there once is waited for', async () => {
    const bench = new Bench();
    bench.loop.begin();
    await pass(5);
    bench.fake.failures = 2;
    bench.fake.error = () => new TriplaneError('TP_NO_LIBRARY', 'an upgrade is under way');
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    await pass(LONG_MS);
    expect(bench.hopeless).toBeNull();
    bench.expectInSync();
  });
});

describe('coalescing', () => {
  test('what arrives within a turn, and while the kernel is busy, is applied together', async () => {
    const bench = new Bench();
    bench.loop.begin();
    await pass(5);
    for (let host = 1; host <= 20; host++) bench.set(web(`s${host}`, host), pods(`s${host}`, '10.10.1.1'));
    bench.fake.slownessMs = 100;
    await pass(10);
    for (let host = 21; host <= 40; host++) {
      bench.set(web(`s${host}`, host), pods(`s${host}`, '10.10.1.1'));
      await pass(1);
    }
    await pass(300);
    expect(bench.fake.callsOf('apply').map(({ keys }) => keys.length)).toEqual([20, 20]);
    bench.expectInSync();
  });

  test('a stream of changes in every millisecond does not put off the work', async () => {
    const bench = new Bench({ minSyncPeriodMs: 50, syncPeriodMs: 30_000 });
    bench.loop.begin();
    await pass(60);
    for (let n = 0; n < 500; n++) {
      bench.set(web('a', 1), pods('a', `10.10.1.${(n % 200) + 1}`));
      await pass(1);
    }
    expect(bench.fake.callsOf('apply').length).toBeGreaterThanOrEqual(9);
  });

  test('other settings of the dataplane start it again, also when they come while it starts', async () => {
    const bench = new Bench();
    bench.set(service());
    bench.fake.slownessMs = 50;
    bench.loop.restart();
    bench.loop.begin();
    await vi.advanceTimersByTimeAsync(10);
    bench.loop.restart();
    await vi.advanceTimersByTimeAsync(200);
    expect(bench.fake.calls.map(({ what }) => what)).toEqual(['start', 'start']);
    bench.loop.restart();
    await vi.advanceTimersByTimeAsync(200);
    expect(bench.fake.calls.map(({ what }) => what)).toEqual(['start', 'start', 'start']);
    expect(bench.fake.breaches).toEqual([]);
    expect(bench.loop.progress().oldestQueuedMs).toBe(0);
    await bench.loop.stop();
  });

  test('without a change of the model there is no call', async () => {
    const bench = new Bench();
    bench.loop.begin();
    await pass(5);
    bench.loop.changed();
    await pass(1000);
    expect(bench.fake.callsOf('apply')).toEqual([]);
    expect(bench.loop.progress().oldestQueuedMs).toBe(0);
  });

  test('set and removed before it is applied never reaches the kernel as set', async () => {
    const bench = new Bench();
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    bench.loop.begin();
    await pass(5);
    bench.fake.failures = 2;
    bench.set(web('b', 2), pods('b', '10.10.1.1'));
    await pass(5);
    bench.change([{ op: 'delete', kind: 'Service', key: 'default/b' }]);
    await pass(LONG_MS);
    expect([...bench.fake.held.keys()]).toEqual(['default/a']);
    bench.expectInSync();
  });
});

describe('the least time between applications', () => {
  /** From the end of one to the start of the next, as in kube-proxy's BoundedFrequencyRunner. */
  function gaps(bench: Bench): number[] {
    const calls = bench.fake.callsOf('start', 'apply');
    return calls.slice(1).map((call, at) => call.beganMs - calls[at]!.endedMs);
  }

  test.each([
    { title: 'changes all the time', disturb: () => {} },
    { title: 'and foreign changes', disturb: (bench: Bench) => bench.loop.verifySoon() },
    {
      title: 'and failures',
      disturb: (bench: Bench, n: number) => {
        if (n % 100 === 50) bench.fake.failures = 1;
      },
    },
    {
      title: 'and a kernel that is slow',
      disturb: (bench: Bench, n: number) => {
        bench.fake.slownessMs = n % 700;
      },
    },
  ])('$title', async ({ disturb }) => {
    const bench = new Bench({ minSyncPeriodMs: 1000, syncPeriodMs: 3000 });
    bench.loop.begin();
    for (let n = 0; n < 1000; n++) {
      bench.set(web('a', 1), pods('a', `10.10.1.${(n % 200) + 1}`));
      disturb(bench, n);
      await pass(10);
    }
    await pass(LONG_MS);
    expect(Math.min(...gaps(bench))).toBeGreaterThanOrEqual(1000);
    expect(gaps(bench).length).toBeGreaterThan(4);
    bench.expectInSync();
  });

  test('a single change after a quiet time does not wait', async () => {
    const bench = new Bench({ minSyncPeriodMs: 10_000, syncPeriodMs: 30_000 });
    bench.loop.begin();
    await pass(20_000);
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    await pass(5);
    expect(bench.fake.held.size).toBe(1);
  });

  test('a shorter one that is set meanwhile counts at once', async () => {
    const bench = new Bench({ minSyncPeriodMs: 3_600_000, syncPeriodMs: 3_600_000 });
    bench.loop.begin();
    await pass(5);
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    await pass(1000);
    expect(bench.fake.held.size).toBe(0);
    bench.loop.setTimes(TIMES);
    await pass(5);
    bench.expectInSync();
  });

  test('a clock that is set back holds nothing up', async () => {
    const bench = new Bench({ minSyncPeriodMs: 1000, syncPeriodMs: 30_000 });
    bench.loop.begin();
    await pass(5);
    vi.setSystemTime(Date.now() - 3_600_000);
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    await pass(1005);
    bench.expectInSync();
  });
});

describe('comparing with the kernel', () => {
  test('happens every sync period, and soon after a foreign change; drift is repaired and told', async () => {
    const bench = new Bench();
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    bench.loop.begin();
    await pass(5);
    bench.fake.flush();
    for (let n = 0; n < 100; n++) bench.loop.verifySoon();
    await pass(100);
    expect(bench.fake.callsOf('verify')).toHaveLength(1);
    expect(bench.repairs).toEqual([['default/a']]);
    bench.expectInSync();
    await pass(30_000 * 3 + 100);
    expect(bench.fake.callsOf('verify')).toHaveLength(4);
    expect(bench.repairs).toHaveLength(1);
  });

  test.each([0, 10])(
    'does not starve under changes without end (least time %s ms)',
    async (minSyncPeriodMs) => {
      const bench = new Bench({ minSyncPeriodMs, syncPeriodMs: 30_000 });
      bench.set(web('a', 1), pods('a', '10.10.1.1'), web('b', 2), pods('b', '10.10.1.1'));
      bench.fake.slownessMs = 20;
      bench.loop.begin();
      await pass(50);
      bench.fake.flush();
      bench.loop.verifySoon();
      for (let n = 0; n < 300; n++) {
        bench.set(web('a', 1), pods('a', `10.10.1.${(n % 200) + 2}`));
        await pass(1);
      }
      expect(bench.fake.held.has('default/b')).toBe(true);
      expect(bench.fake.callsOf('apply').length).toBeGreaterThan(5);
    },
  );

  test('changes do not starve under foreign changes without end', async () => {
    const bench = new Bench();
    bench.loop.begin();
    bench.fake.slownessMs = 20;
    for (let n = 0; n < 300; n++) {
      bench.loop.verifySoon();
      if (n % 10 === 0) bench.set(web('a', 1), pods('a', `10.10.1.${(n % 200) + 1}`));
      await pass(1);
    }
    expect(bench.fake.callsOf('verify').length).toBeGreaterThan(3);
    expect(bench.fake.callsOf('apply').length).toBeGreaterThan(3);
  });

  test('a period longer than a timer can hold is no period of 1 ms', async () => {
    const bench = new Bench({ minSyncPeriodMs: 0, syncPeriodMs: 2 ** 32 });
    bench.loop.begin();
    await pass(60_000);
    expect(bench.fake.callsOf('verify')).toEqual([]);
  });

  test('comparisons that take long come seldom by the clock, and at once when somebody has changed something', async () => {
    const bench = new Bench({ minSyncPeriodMs: 0, syncPeriodMs: 1000 });
    bench.loop.begin();
    await pass(500);
    bench.fake.slownessMs = 100;
    await pass(40_000);
    // Two hundred times as long is 20 s, less the clock's period.
    const began = bench.fake.callsOf('verify').map(({ beganMs }) => beganMs);
    expect(began).toHaveLength(2);
    expect(began[1]! - began[0]!).toBeGreaterThan(18_000);
    bench.loop.verifySoon();
    await pass(500);
    expect(bench.fake.callsOf('verify')).toHaveLength(3);
    // What the kernel refused is asked for at each turn of the clock all the same.
    bench.fake.refused.add('default/a');
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    await pass(500);
    bench.fake.refused.clear();
    await pass(2000);
    expect(bench.fake.held.size).toBe(1);
    expect(bench.fake.callsOf('verify')).toHaveLength(3);
  });

  describe('beside changes, where the dataplane can', () => {
    async function surveyed(): Promise<Bench> {
      const bench = new Bench({ minSyncPeriodMs: 0, syncPeriodMs: 1_000_000 });
      bench.fake.surveyMs = 1000;
      bench.set(web('a', 1), pods('a', '10.10.1.1'), web('b', 2), pods('b', '10.10.1.1'));
      bench.loop.begin();
      await pass(5);
      return bench;
    }

    test('nothing is repaired where nothing differs, and changes do not wait', async () => {
      const bench = await surveyed();
      bench.loop.verifySoon();
      await pass(900);
      bench.set(web('c', 3), pods('c', '10.10.1.1'));
      await pass(5);
      bench.expectInSync();
      expect(bench.fake.callsOf('survey')).toEqual([]);
      // So much changed meanwhile that only a comparison between changes can tell.
      await pass(5000);
      expect(bench.fake.calls.map(({ what }) => what)).toEqual(['start', 'apply', 'survey', 'verify']);
      bench.loop.verifySoon();
      await pass(5000);
      expect(bench.fake.calls.map(({ what }) => what).slice(4)).toEqual(['survey']);
      expect(bench.repairs).toEqual([]);
    });

    test('drift is repaired and told', async () => {
      const bench = await surveyed();
      bench.fake.flush();
      bench.loop.verifySoon();
      await pass(5000);
      expect(bench.repairs).toEqual([['default/a', 'default/b']]);
      bench.expectInSync();
    });

    test('what is asked for during one is looked at by the next', async () => {
      const bench = await surveyed();
      bench.loop.verifySoon();
      await pass(500);
      expect(bench.fake.callsOf('survey')).toEqual([]);
      for (let n = 0; n < 10; n++) bench.loop.verifySoon();
      await pass(1000);
      // The first has ended, and looked before this.
      bench.fake.flush();
      await pass(5000);
      expect(bench.fake.callsOf('survey')).toHaveLength(2);
      expect(bench.repairs).toEqual([['default/a', 'default/b']]);
      bench.expectInSync();
    });

    test('does not starve under changes without end, and the loop ends with it', async () => {
      const bench = await surveyed();
      bench.fake.held.delete('default/b');
      bench.loop.verifySoon();
      for (let n = 0; n < 3000; n++) {
        bench.set(pods('a', `10.10.1.${(n % 200) + 2}`));
        await pass(1);
      }
      expect(bench.fake.held.has('default/b')).toBe(true);
      expect(bench.fake.callsOf('apply').length).toBeGreaterThan(500);
      bench.loop.verifySoon();
      await pass(500);
      const stopped = bench.loop.stop();
      await pass(1000);
      await stopped;
      await bench.fake.close();
      await pass(5000);
      expect(bench.fake.breaches).toEqual([]);
      expect(bench.fake.callsOf('verify')).toHaveLength(1);
    });
  });

  test('a period that is changed counts from now on', async () => {
    const bench = new Bench({ minSyncPeriodMs: 0, syncPeriodMs: 1_000_000 });
    bench.loop.begin();
    await pass(5);
    bench.loop.setTimes({ minSyncPeriodMs: 0, syncPeriodMs: 1000 });
    await pass(10_500);
    expect(bench.fake.callsOf('verify')).toHaveLength(10);
  });
});

describe('failures', () => {
  test('a kernel that fails is tried ever more rarely, and everything arrives once it works', async () => {
    const bench = new Bench();
    bench.set(dns(1), dnsPods('10.10.1.1', '10.10.1.2'));
    bench.loop.begin();
    await pass(5);
    bench.fake.failures = Number.POSITIVE_INFINITY;
    bench.set(dnsPods('10.10.1.2'));
    await pass(5);
    bench.change([{ op: 'delete', kind: 'Service', key: 'default/dns' }]);
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    await pass(600_000);
    const began = bench.fake.calls.filter(({ outcome }) => outcome === 'failed').map((call) => call.beganMs);
    const waits = began.slice(1).map((ms, at) => ms - began[at]!);
    expect(waits.slice(0, 3)).toEqual([250, 500, 1000]);
    expect(Math.max(...waits)).toBe(30_000);
    // Nothing is cleared before the rules are right: a packet in between would make the flow anew.
    const frontend = { protocol: 'UDP', address: '10.200.1.1', port: 53 };
    expect(bench.cleared).toEqual([{ ...frontend, backend: null, backendPort: 0 }]);
    bench.fake.failures = 0;
    await pass(LONG_MS);
    bench.expectInSync();
    expect(bench.cleared).toEqual(
      expect.arrayContaining([
        { ...frontend, backend: '10.10.1.1', backendPort: 5353 },
        { ...frontend, backend: '10.10.1.2', backendPort: 5353 },
      ]),
    );
    expect(bench.events.at(-1)).toMatchObject({ ok: true, scope: 'full', triggersMs: [1] });
    // The back-off is over: the next change is applied at once.
    bench.set(pods('a', '10.10.1.7'));
    await pass(5);
    bench.expectInSync();
  });

  test('changes do not shorten the wait', async () => {
    const bench = new Bench();
    bench.loop.begin();
    await pass(5);
    bench.fake.failures = Number.POSITIVE_INFINITY;
    for (let n = 0; n < 1000; n++) {
      bench.set(web('a', 1), pods('a', `10.10.1.${(n % 200) + 1}`));
      await pass(10);
    }
    expect(bench.fake.calls.length).toBeLessThan(10);
  });

  test.each([
    { title: 'a call that fails', hurt: { failures: 1e9 } },
    { title: 'a call that never ends', hurt: { slownessMs: 1e9 } },
  ])('$title shows as a change that waits, from the moment at which it came', async ({ hurt }) => {
    const bench = new Bench();
    bench.loop.begin();
    await pass(5);
    const before = bench.loop.progress().lastSyncedMs;
    Object.assign(bench.fake, hurt);
    const cameMs = Date.now();
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    await pass(20_000);
    expect(bench.loop.progress().oldestQueuedMs).toBe(cameMs);
    bench.set(web('b', 2));
    await pass(20_000);
    expect(bench.loop.progress()).toMatchObject({ oldestQueuedMs: cameMs, lastSyncedMs: before });
  });

  test('a repair that fails shows as waiting too, and is made up for', async () => {
    const bench = new Bench();
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    bench.loop.begin();
    await pass(5);
    bench.fake.flush();
    bench.fake.failures = 5;
    bench.loop.verifySoon();
    await pass(100);
    expect(bench.loop.progress().oldestQueuedMs).toBeGreaterThan(0);
    await pass(LONG_MS);
    bench.expectInSync();
  });

  test('flows that could not be cleared are tried again without holding up the rules', async () => {
    const bench = new Bench();
    bench.clearFailures = 2;
    bench.set(dns(1), dnsPods('10.10.1.1'));
    bench.loop.begin();
    await pass(5);
    bench.expectInSync();
    bench.set(dns(1), dnsPods('10.10.1.2'));
    await pass(5);
    bench.expectInSync();
    expect(bench.cleared).toEqual([]);
    await pass(30_100);
    expect(bench.cleared).toHaveLength(2);
    await pass(60_000);
    expect(bench.cleared).toHaveLength(2);
  });

  /** dns goes from backend to backend; each clearing takes 5 ms, as one of a large table does. */
  async function hop(changes: number) {
    const calls: number[] = [];
    const bench = new Bench(TIMES, {
      clearFlows: async (flows) => {
        calls.push(performance.now());
        await new Promise((resolve) => setTimeout(resolve, 5));
        for (const flow of flows) bench.cleared.push(flow);
        return [];
      },
    });
    bench.set(dns(1), dnsPods('10.10.1.1'));
    bench.loop.begin();
    await pass(1000);
    bench.cleared.length = calls.length = 0;
    for (let n = 0; n < changes; n++) {
      bench.set(dnsPods(`10.10.1.${n + 2}`));
      await pass(10);
    }
    const left = () => new Set(bench.cleared.map(({ backend }) => backend));
    return { bench, calls, left };
  }

  test('flows of one change are cleared at once, those of a stream of changes together, and none is left', async () => {
    const one = await hop(1);
    expect(one.left()).toEqual(new Set([ip('10.10.1.1')]));
    const many = await hop(100);
    expect(many.bench.fake.callsOf('apply').length).toBe(100);
    // 1 s of changes, of which a walk of 5 ms takes a twentieth.
    expect(many.calls.length).toBeGreaterThan(6);
    expect(many.calls.length).toBeLessThan(14);
    await pass(150);
    expect(many.left().size).toBe(100);
    many.bench.expectInSync();
    const after = many.calls.length;
    await pass(25_000);
    expect(many.calls).toHaveLength(after);
  });

  test('an end does not leave flows behind that were put off', async () => {
    const { bench, left } = await hop(3);
    expect(left().size).toBeLessThan(3);
    const stopping = bench.loop.stop();
    await pass(10);
    await stopping;
    expect(left().size).toBe(3);
  });

  test('more flows than a call can have arguments', async () => {
    const staleFlows = Array.from(
      { length: 150_000 },
      (_, n): StaleFlow => ({
        ...{ protocol: 'UDP', address: ip('10.200.1.1'), port: n % 65536, backend: ip('10.10.1.1') },
        backendPort: n >> 16,
      }),
    );
    const nothing = { set: [], remove: [], triggers: [], health: [], problems: [], problemsGone: [] };
    const none = { ...nothing, strandsTcp: false };
    const pending = new Pending();
    pending.take({ ...none, staleFlows });
    const later = new Pending();
    later.take({ ...none, staleFlows });
    pending.append(later);
    expect(pending.flows).toHaveLength(150_000);
  });
});

describe('refusals', () => {
  test('are told, tried again at each comparison, and told to be gone', async () => {
    const bench = new Bench();
    bench.fake.refused.add('default/a');
    bench.set(web('a', 1), pods('a', '10.10.1.1'), web('b', 2), pods('b', '10.10.1.1'));
    bench.loop.begin();
    await pass(5);
    expect(bench.refusals).toMatchObject([{ service: 'default/a' }]);
    expect(bench.loop.synced).toBe(true);
    expect([...bench.fake.held.keys()]).toEqual(['default/b']);
    // Another change of somebody else leaves the refusal as it is, and counts none of its own.
    bench.set(pods('b', '10.10.1.2'));
    await pass(5);
    expect(bench.refusals).toHaveLength(1);
    expect(bench.events.map(({ refusals }) => refusals)).toEqual([1, 0]);
    bench.fake.refused.clear();
    await pass(30_100);
    expect(bench.refusals).toEqual([]);
    bench.expectInSync();
  });

  test.each(['changed', 'removed'] as const)('end when the service is %s', async (how) => {
    const bench = new Bench();
    bench.fake.refused.add('default/a');
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    bench.loop.begin();
    await pass(5);
    if (how === 'removed') bench.change([{ op: 'delete', kind: 'Service', key: 'default/a' }]);
    else {
      bench.fake.refused.clear();
      bench.set(pods('a', '10.10.1.2'));
    }
    await pass(5);
    expect(bench.refusals).toEqual([]);
    bench.expectInSync();
  });

  test('of the node’s own rules are tried again too', async () => {
    const bench = new Bench();
    bench.fake.refused.add('');
    bench.loop.begin();
    await pass(5);
    expect(bench.refusals).toMatchObject([{ service: '' }]);
    await pass(30_100);
    expect(bench.refusals).toMatchObject([{ service: '' }]);
    bench.fake.refused.clear();
    await pass(30_100);
    expect(bench.refusals).toEqual([]);
    bench.expectInSync();
  });
});

describe('stop()', () => {
  test('waits for what is under way and starts nothing more', async () => {
    const bench = new Bench();
    bench.fake.slownessMs = 500;
    bench.set(web('a', 1), pods('a', '10.10.1.1'));
    bench.loop.begin();
    await pass(10);
    let stopped = false;
    const stopping = bench.loop.stop().then(() => {
      stopped = true;
    });
    bench.set(web('b', 2), pods('b', '10.10.1.1'));
    await pass(10);
    expect(stopped).toBe(false);
    await pass(500);
    await stopping;
    await bench.fake.close();
    bench.set(web('c', 3), pods('c', '10.10.1.1'));
    bench.loop.verifySoon();
    bench.loop.setTimes({ minSyncPeriodMs: 0, syncPeriodMs: 10 });
    bench.loop.begin();
    await pass(LONG_MS);
    expect(bench.fake.calls).toHaveLength(1);
    expect(bench.fake.breaches).toEqual([]);
    expect(vi.getTimerCount()).toBe(0);
  });

  test.each(['before begin()', 'while waiting after a failure', 'twice'] as const)('%s', async (when) => {
    const bench = new Bench();
    bench.fake.failures = 1e9;
    if (when !== 'before begin()') bench.loop.begin();
    await pass(5);
    const calls = bench.fake.calls.length;
    await bench.loop.stop();
    if (when === 'twice') await bench.loop.stop();
    bench.loop.begin();
    await pass(LONG_MS);
    expect(bench.fake.calls).toHaveLength(calls);
    expect(vi.getTimerCount()).toBe(0);
  });
});

test('whoever is told of a change may say at once that something changed', async () => {
  let bench: Bench | null = null;
  let left = 5;
  const again = () => {
    if (left-- <= 0) return;
    bench!.set(pods('a', `10.10.1.${left + 1}`));
    bench!.loop.verifySoon();
  };
  bench = new Bench(TIMES, { onProduced: again, onSync: again });
  bench.set(web('a', 1), pods('a', '10.10.1.1'));
  bench.loop.begin();
  await pass(1000);
  bench.expectInSync();
});

describe('any interleaving', () => {
  type Act =
    | { readonly act: 'change'; readonly changes: readonly RecordChange[] }
    | { readonly act: 'config' | 'facts'; readonly to: (model: ClusterModel) => void }
    | { readonly act: 'begin' | 'flush' | 'notice' }
    | { readonly act: 'slow' | 'fail' | 'failClearing' | 'pass'; readonly n: number }
    | { readonly act: 'refuse'; readonly keys: readonly string[] }
    | { readonly act: 'times'; readonly times: SyncTimes };

  const times = fc.record({
    minSyncPeriodMs: fc.constantFrom(0, 0, 5, 1000),
    syncPeriodMs: fc.constantFrom(100, 1000, 30_000),
  });
  const act: fc.Arbitrary<Act> = fc.oneof(
    {
      weight: 8,
      arbitrary: fc
        .array(arbitraryChange, { minLength: 1, maxLength: 4 })
        .map((changes): Act => ({ act: 'change', changes })),
    },
    {
      weight: 1,
      arbitrary: arbitraryConfig.map((c): Act => ({ act: 'config', to: (model) => model.setConfig(c) })),
    },
    {
      weight: 1,
      arbitrary: arbitraryFacts.map((f): Act => ({ act: 'facts', to: (model) => model.setFacts(f) })),
    },
    { weight: 3, arbitrary: fc.constantFrom<Act>({ act: 'begin' }, { act: 'flush' }, { act: 'notice' }) },
    {
      weight: 6,
      arbitrary: fc.constantFrom(0, 1, 5, 60, 300, 5000).map((n): Act => ({ act: 'pass', n })),
    },
    { weight: 1, arbitrary: fc.constantFrom(0, 2, 100).map((n): Act => ({ act: 'slow', n })) },
    { weight: 1, arbitrary: fc.constantFrom(1, 3).map((n): Act => ({ act: 'fail', n })) },
    { weight: 1, arbitrary: fc.constantFrom(1, 2).map((n): Act => ({ act: 'failClearing', n })) },
    {
      weight: 1,
      arbitrary: fc.subarray(['x/a', 'x/b', 'y/a', '']).map((keys): Act => ({ act: 'refuse', keys })),
    },
    { weight: 1, arbitrary: times.map((to): Act => ({ act: 'times', times: to })) },
  );

  async function play(bench: Bench, one: Act): Promise<void> {
    switch (one.act) {
      case 'change':
        return bench.change(one.changes);
      case 'config':
      case 'facts':
        one.to(bench.model);
        return bench.loop.changed();
      case 'begin':
        return bench.loop.begin();
      case 'flush':
        bench.fake.flush();
        return bench.loop.verifySoon();
      case 'notice':
        return bench.loop.verifySoon();
      case 'slow':
        bench.fake.slownessMs = one.n;
        return;
      case 'fail':
        bench.fake.failures = one.n;
        return;
      case 'failClearing':
        bench.clearFailures = one.n;
        return;
      case 'refuse':
        bench.fake.refused.clear();
        for (const key of one.keys) bench.fake.refused.add(key);
        return;
      case 'times':
        return bench.loop.setTimes(one.times);
      case 'pass':
        await pass(one.n);
    }
  }

  const nameOf = (flow: StaleFlow) => JSON.stringify(flow);

  test('ends with the kernel at the model’s state, every flow cleared, nothing refused', async () => {
    await fc.assert(
      fc.asyncProperty(times, fc.array(act, { maxLength: 40 }), async (initial, acts) => {
        const bench = new Bench(initial);
        for (const one of acts) await play(bench, one);
        bench.loop.begin();
        bench.fake.refused.clear();
        bench.fake.failures = 0;
        bench.clearFailures = 0;
        bench.loop.setTimes({ minSyncPeriodMs: 10, syncPeriodMs: 10_000 });
        await pass(60_000);
        bench.expectInSync();
        expect(bench.refusals).toEqual([]);
        const wanted = new Set(bench.produced.flatMap(({ staleFlows }) => staleFlows.map(nameOf)));
        expect(new Set(bench.cleared.map(nameOf))).toEqual(wanted);
        await bench.loop.stop();
        expect(vi.getTimerCount()).toBe(0);
      }),
      { numRuns: 200 },
    );
  });

  test('after stop() the kernel is left as it is', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(act, { maxLength: 25 }),
        fc.array(act, { maxLength: 15 }),
        async (acts, rest) => {
          const bench = new Bench();
          bench.loop.begin();
          for (const one of acts) await play(bench, one);
          const stopping = bench.loop.stop();
          await pass(1000);
          await stopping;
          const calls = bench.fake.calls.length;
          await bench.fake.close();
          for (const one of rest) await play(bench, one);
          await pass(LONG_MS);
          expect(bench.fake.calls).toHaveLength(calls);
          expect(bench.fake.breaches).toEqual([]);
        },
      ),
      { numRuns: 100 },
    );
  });
});
