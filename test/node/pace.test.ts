/** How often work comes, under a clock that the tests move. */
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Pace } from '../../src/node/pace.ts';
import { PacedTask, type PacedTimes } from '../../src/node/paced-task.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

function bench(times: PacedTimes, tookMs = 0) {
  const began: number[] = [];
  let running = 0;
  const task = new PacedTask(async () => {
    expect(running++).toBe(0);
    began.push(performance.now());
    if (tookMs > 0) await sleep(tookMs);
    running--;
  }, times);
  return { task, began, startMs: performance.now() };
}

test('rests so many times as long as the turn took, at least so long, whether it failed or not', async () => {
  const pace = new Pace({ rests: 10, leastMs: 100 });
  expect(pace.restMs).toBe(0);
  await pace.turn(async () => {});
  expect(pace.restMs).toBe(100);
  const turn = pace.turn(() => sleep(50).then(() => Promise.reject(new Error('no'))));
  await Promise.all([expect(turn).rejects.toThrow('no'), pass(50)]);
  expect(pace.restMs).toBe(500);
  expect(pace.soonestMs).toBe(performance.now() + 500);
  await pass(600);
  expect(pace.restMs).toBe(0);
});

test('asked for at once: without the rest, but after what runs', async () => {
  const { task, began, startMs } = bench({ rests: 10, delayMs: 20 }, 50);
  task.request();
  task.requestAtOnce();
  await pass(10);
  task.requestAtOnce();
  await pass(10_000);
  expect(began).toHaveLength(2);
  expect(began[1]! - startMs).toBeLessThan(60);
});

test('waiting for its turn among other work is no part of what it rests for', async () => {
  let turns = 0;
  const work = async () => {
    turns++;
  };
  const task = new PacedTask(work, { rests: 10 }, async (turn) => {
    await sleep(500);
    await turn();
  });
  task.request();
  await pass(600);
  task.request();
  await pass(600);
  expect(turns).toBe(2);
});

test('what nobody did yet is forgotten at the end, which waits for what runs', async () => {
  const { task, began } = bench({ rests: 0 }, 50);
  task.request();
  await pass(10);
  task.request();
  let ended = false;
  const end = task.close().then(() => {
    ended = true;
  });
  await pass(30);
  expect(ended).toBe(false);
  await pass(1000);
  await end;
  task.request();
  task.requestAtOnce();
  await pass(1000);
  expect(began).toHaveLength(1);
});

test('whenever it is asked for: never sooner than the rest, never twice for one asking, and always once after the last', async () => {
  const asks = fc.array(fc.nat({ max: 400 }), { minLength: 1, maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(asks, fc.nat({ max: 40 }), fc.nat({ max: 60 }), async (gaps, tookMs, delayMs) => {
      const { task, began } = bench({ rests: 5, leastMs: 30, delayMs }, tookMs);
      let lastMs = 0;
      for (const gap of gaps) {
        await pass(gap);
        lastMs = performance.now();
        task.request();
      }
      await pass(10_000);
      const restMs = tookMs + Math.max(30, tookMs * 5);
      for (const [n, ms] of began.entries())
        if (n > 0) expect(ms - began[n - 1]!).toBeGreaterThanOrEqual(restMs);
      expect(began.length).toBeLessThanOrEqual(gaps.length);
      expect(began.at(-1)!).toBeGreaterThanOrEqual(lastMs);
      await task.close();
    }),
    { numRuns: 100 },
  );
});
