import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { lineDiff } from '../../src/lab/demo/diff.ts';
import { shareBars, Timeline, table } from '../../src/lab/demo/picture.ts';
import { cut, visibleLength, wrap } from '../../src/lab/demo/terminal.ts';
import { describeCommands } from '../../src/lab/describe.ts';
import { planLab } from '../../src/lab/plan.ts';
import type { LoadInterval } from '../../src/lab/results.ts';

const lines = fc.array(fc.constantFrom('a', 'b', 'c', 'd'), { maxLength: 12 });
const text = (of: readonly string[]) => of.map((line) => `${line}\n`).join('');

describe('a difference', () => {
  test('holds all of both texts when nothing is left out', () => {
    fc.assert(
      fc.property(lines, lines, (before, after) => {
        fc.pre(text(before) !== text(after));
        const rows = lineDiff(text(before), text(after), 99);
        const side = (sign: string) =>
          rows.filter((row) => row[0] === sign || row[0] === ' ').map((row) => row.slice(2));
        expect(side('-')).toEqual(before);
        expect(side('+')).toEqual(after);
      }),
    );
  });

  test('leaves out what is far from a change', () => {
    expect(lineDiff('1\n2\n3\n4\n5\n6\n', '1\n2\n3\n4\n5\nsix\n', 1)).toEqual(['  5', '- 6', '+ six']);
    expect(lineDiff('1\n2\n3\n4\n5\n', 'one\n2\n3\n4\nfive\n', 0)).toEqual([
      '- 1',
      '+ one',
      '  ...',
      '- 5',
      '+ five',
    ]);
  });
});

describe('text', () => {
  test('is cut to its columns, colours not counted', () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom('x', '█', '\x1b[32m', '\x1b[0m')),
        fc.integer({ min: 2, max: 20 }),
        (parts, n) => {
          const whole = parts.join('');
          expect(visibleLength(cut(whole, n))).toBe(Math.min(visibleLength(whole), n));
        },
      ),
    );
  });

  test('is wrapped without losing a word', () => {
    fc.assert(
      fc.property(
        fc.array(fc.stringMatching(/^[a-z]{1,8}$/), { minLength: 1 }),
        fc.integer({ min: 8, max: 40 }),
        (words, n) => {
          const wrapped = wrap(words.join(' '), n);
          expect(wrapped.join(' ')).toBe(words.join(' '));
          for (const line of wrapped) expect(line.length).toBeLessThanOrEqual(n);
        },
      ),
    );
  });
});

test('the commands that a lab offers name a node with an agent, and its socket', () => {
  const plan = planLab({
    name: 'mine',
    nodes: [{ name: 'cp' }, { name: 'far', agent: 'none' }],
    pods: [{ name: 'pod', node: 'cp' }],
  });
  const commands = describeCommands(plan, { has: 'services', program: 'triplane' });
  expect(commands.join('\n')).toContain('lab exec --name mine cp -- triplane get services');
  expect(commands.join('\n')).toMatch(
    /cp -- triplane explain .*--admin-socket \/run\/triplane\/lab-mine\/agents\/cp\.sock {2}#/,
  );
  // One long command does not push the comments of all others away.
  expect(commands.find((line) => line.includes('lab down'))!.length).toBeLessThan(130);
});

describe('pictures', () => {
  const interval = (pods: Record<string, number>, failed: number) =>
    ({ pods, outcomes: { ok: 1, refused: failed } }) as unknown as LoadInterval;

  test('bars say the share', () => {
    expect(shareBars({ a: 3, bb: 1 }, ['a', 'bb', 'c'], 4).map((line) => line.replace(/[█░]+/, '|'))).toEqual(
      ['  a   |  75.0%      3', '  bb  |  25.0%      1', '  c   |   0.0%      0'],
    );
  });

  test('a timeline shows the newest intervals that fit, with marks and failures at their place', () => {
    const timeline = new Timeline(['a', 'b'], 20);
    for (let i = 0; i < 30; i++) {
      if (i === 25) timeline.mark('D');
      timeline.add(interval(i < 25 ? { a: 4, b: 4 } : { a: 8 }, i === 25 ? 2 : 0));
    }
    const [marks, a, b, failed] = timeline.lines();
    expect(a!.slice(10)).toBe('▄▄▄▄▄█████');
    expect(b!.slice(10)).toBe('▄▄▄▄▄     ');
    expect(failed!.slice(10)).toBe('·····x····');
    expect(marks!.slice(10)).toBe('     D    ');
  });

  test('a table has straight columns', () => {
    expect(
      table([
        ['a', 'b'],
        ['ccc', ''],
      ]),
    ).toEqual(['  a    b', '  ccc']);
  });
});
