/** When conntrack is looked through, under a clock that the tests move. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FlowSweep } from '../../src/agent/flow-sweep.ts';
import type { FlowProtocol } from '../../src/model/conntrack.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
const quiet = () => {};

function bench(tookMs = 0) {
  const looks: FlowProtocol[] = [];
  const made = {
    looks,
    failures: 0,
    sweep: new FlowSweep({
      log: { error: quiet, warn: quiet, info: quiet, debug: quiet, trace: quiet },
      sweep: async (protocol) => {
        looks.push(protocol);
        if (tookMs > 0) await new Promise((resolve) => setTimeout(resolve, tookMs));
        if (made.failures-- > 0) throw new Error('no');
      },
    }),
  };
  return made;
}

test('looks at once, and then at most once a second, however often it is asked', async () => {
  const { sweep, looks } = bench();
  for (let n = 0; n < 10; n++) sweep.request('TCP');
  await pass(0);
  expect(looks).toEqual(['TCP']);
  for (let n = 0; n < 10; n++) sweep.request('TCP', 'UDP');
  await pass(900);
  expect(looks).toHaveLength(1);
  await pass(200);
  expect(looks).toEqual(['TCP', 'TCP', 'UDP']);
  await pass(60_000);
  expect(looks).toHaveLength(3);
});

test('what is asked for during a look is looked for after it', async () => {
  const { sweep, looks } = bench(50);
  sweep.request('TCP');
  await pass(10);
  sweep.request('TCP');
  await pass(10_000);
  expect(looks).toEqual(['TCP', 'TCP']);
});

test('a long look is followed by a longer rest', async () => {
  const { sweep, looks } = bench(500);
  sweep.request('TCP');
  await pass(600);
  sweep.request('TCP');
  await pass(8_000);
  expect(looks).toHaveLength(1);
  await pass(3_000);
  expect(looks).toHaveLength(2);
});

test('what cannot wait is looked for at once, also where a look was put off, is under way, or took long', async () => {
  const { sweep, looks } = bench(100);
  sweep.request('TCP');
  await pass(110);
  sweep.request('UDP');
  await pass(30);
  expect(looks).toEqual(['TCP']);
  sweep.requestAtOnce('TCP');
  await pass(210);
  expect(looks).toEqual(['TCP', 'UDP', 'TCP']);
  sweep.request('UDP');
  sweep.requestAtOnce('UDP');
  await pass(50);
  sweep.requestAtOnce('TCP');
  expect(looks).toHaveLength(4);
  await pass(160);
  expect(looks).toEqual(['TCP', 'UDP', 'TCP', 'UDP', 'TCP']);
  // The next one waits its turn again.
  sweep.request('TCP');
  await pass(1_000);
  expect(looks).toHaveLength(5);
  await pass(1_100);
  expect(looks).toHaveLength(6);
});

test('a look that failed is made again', async () => {
  const made = bench();
  made.failures = 2;
  made.sweep.request('UDP');
  await pass(10_000);
  expect(made.looks).toEqual(['UDP', 'UDP', 'UDP']);
});

test('stop() waits for a look that is under way, and no other follows', async () => {
  const { sweep, looks } = bench(50);
  sweep.request('TCP');
  await pass(10);
  sweep.request('UDP');
  let stopped = false;
  const stopping = sweep.stop().then(() => {
    stopped = true;
  });
  expect(stopped).toBe(false);
  await pass(50);
  await stopping;
  sweep.request('TCP');
  await pass(10_000);
  expect(looks).toEqual(['TCP']);
});
