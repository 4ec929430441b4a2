import { describe, expect, test } from 'vitest';
import { Results } from '../../scripts/lib/results.mjs';
import { VitestEvents } from '../../scripts/lib/vitest-events.mjs';

type Event = Record<string, string>;
const passed = (name: string): Event => ({ event: 'passed', name });
const failed = (name: string, reason = 'no'): Event => ({ event: 'failed', name, reason });
const notReached = (name: string): Event => ({ event: 'skipped', name, mode: 'run' });
const END = { event: 'end' };

const read = (...events: Event[]) => new VitestEvents(events.map((one) => JSON.stringify(one)).join('\n'));

function account(events: VitestEvents): Results {
  const results = new Results();
  events.addTo(results);
  return results;
}

const [A, B] = ['test/agent/a.test.ts', 'test/model/b.test.ts'];

describe('what vitest told', () => {
  test('is counted, and says what ran when it stopped', () => {
    const events = read(
      { event: 'module', name: A },
      { event: 'start', name: `${A} > x` },
      passed(`${B} > y`),
    );
    expect(events).toMatchObject({ running: [A, `${A} > x`], finished: false, ran: 1 });
    expect(account(events)).toMatchObject({ passed: 1, failures: [] });
  });

  test('tests that -t left out are no skips', () => {
    const text = JSON.stringify({ event: 'skipped', name: `${A} > x`, mode: 'skip' });
    expect(account(new VitestEvents(text, { selectsByName: true })).failures).toEqual([]);
    expect(account(new VitestEvents(text)).failures).toHaveLength(1);
  });

  test('errors of no file cannot be asked again', () => {
    const error = failed('an error outside of every test');
    expect(read(failed(`${A} > x`), error, END).failedFiles).toBeUndefined();
    expect(read(failed(`${A} > x`), passed(`${B} > y`), failed(A), END).failedFiles).toEqual([A]);
  });
});

describe('a second run of what failed', () => {
  const first = () => read(passed(`${A} > one`), failed(`${A} > two`, 'lost'), passed(`${B} > y`), END);

  test('what passes is unsteady, not failed, and counted once', () => {
    const events = first();
    events.replaceBy(read(passed(`${A} > one`), passed(`${A} > two`), END));
    expect(events.failedFiles).toEqual([]);
    const results = account(events);
    expect(results).toMatchObject({ passed: 3, failures: [] });
    expect(results.unsteady).toEqual([{ name: `${A} > two`, reason: 'lost' }]);
    expect(results.report()).toContain(`ran again, alone:\n  ${A} > two: lost\n\n3 passed, 0 failed`);
  });

  test('what stood behind a failed beforeAll counts as well', () => {
    const events = read(failed(`${A} > suite`), notReached(`${A} > suite > one`), END);
    expect(account(events)).toMatchObject({
      passed: 0,
      skips: [{ reason: expect.stringMatching('beforeAll') }],
    });
    events.replaceBy(read(passed(`${A} > suite > one`), END));
    expect(account(events)).toMatchObject({ passed: 1, skips: [], failures: [] });
  });

  test.each([
    ['another test fails', [failed(`${A} > one`), passed(`${A} > two`), END]],
    ['the same fails', [passed(`${A} > one`), failed(`${A} > two`), END]],
    ['it does not come to its end', [passed(`${A} > one`), passed(`${A} > two`)]],
    ['nothing ran', [END]],
  ])('%s: the first run stands', (_, second) => {
    const events = first();
    events.replaceBy(read(...(second as Event[])));
    expect(account(events)).toMatchObject({ passed: 2, failures: [{ name: `${A} > two` }], unsteady: [] });
  });
});
