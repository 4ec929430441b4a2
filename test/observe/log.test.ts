import fs from 'node:fs';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { escapeText } from '../../src/observe/escape.ts';
import { createLogger, levelOf, textLine } from '../../src/observe/log.ts';

function logTo(format: 'text' | 'json', verbosity = 0) {
  const lines: string[] = [];
  return {
    lines,
    log: createLogger({ verbosity, format, stream: { write: (line: string) => void lines.push(line) } }),
  };
}

describe('the log', () => {
  it.each([
    [0, 'info'],
    [2, 'info'],
    [3, 'debug'],
    [4, 'debug'],
    [5, 'trace'],
    [10, 'trace'],
  ] as const)('-v=%d is %s', (v, level) => {
    expect(levelOf(v)).toBe(level);
  });

  it('is for people as text', () => {
    const { lines, log } = logTo('text');
    log.info({ service: 'default/web', count: 3, name: 'two words', list: ['a', 1] }, 'a change');
    log.debug({}, 'not shown');
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(
      /^\d{4}-\d\d-\d\dT[\d:.]+Z INFO {2}a change service=default\/web count=3 name="two words" list=\["a",1\]\n$/,
    );
  });

  it('is for programs as JSON', () => {
    const { lines, log } = logTo('json');
    log.error({ err: Object.assign(new Error('no'), { code: 'TP_API' }) }, 'failed');
    expect(JSON.parse(lines[0]!)).toMatchObject({
      level: 'error',
      msg: 'failed',
      err: { message: 'no', code: 'TP_API' },
    });
  });

  it.each(['text', 'json'] as const)('a hostile name is one line of %s', (format) => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (name) => {
        const { lines, log } = logTo(format);
        log.info({ name }, `about ${name}`);
        expect(
          lines
            .join('')
            .trimEnd()
            .split(/[\n\r]/),
        ).toHaveLength(1);
        if (format === 'text')
          expect(lines.join('').trimEnd()).not.toMatch(
            /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e]/,
          );
      }),
    );
  });

  it('escapes what moves a cursor and leaves the rest', () => {
    expect(escapeText('a\u001b[2Jb\nc\u202ed é 日本 🎉')).toBe('a\\u001b[2Jb\\nc\\u202ed é 日本 🎉');
    expect(escapeText('\ud800')).toBe('\\ud800');
  });

  it('reads what pino writes', () => {
    expect(textLine('{"level":"warn","time":"T","msg":"m","x":""}')).toBe('T WARN  m x=""\n');
  });
});

describe('the log on standard error', () => {
  afterEach(() => vi.restoreAllMocks());

  /** What standard error does with what is written to it: an error's code, or '' for taking it. */
  function standardError() {
    const stderr = { refusal: '', taken: '', asked: 0 };
    vi.spyOn(fs, 'writeSync').mockImplementation((_fd, data) => {
      stderr.asked++;
      if (stderr.refusal !== '') throw Object.assign(new Error(stderr.refusal), { code: stderr.refusal });
      stderr.taken += String(data);
      return Buffer.byteLength(String(data));
    });
    return stderr;
  }
  const records = (text: string) =>
    text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { msg: string; lines?: number });

  it.each(['json', 'text'] as const)(
    '(%s) waits for room in bounded memory, and says what it lost',
    async (format) => {
      const stderr = standardError();
      const log = createLogger({ verbosity: 0, format });
      stderr.refusal = 'ENOSPC';
      const lines = 4000;
      for (let n = 0; n < lines; n++) log.info({ n }, 'x'.repeat(1000));
      expect(stderr.taken).toBe('');
      stderr.refusal = '';
      log.info({}, 'room again');
      await new Promise((resolve) => setImmediate(resolve));
      expect(stderr.taken.length).toBeLessThan(2 ** 21);
      const kept = stderr.taken.trimEnd().split('\n');
      expect(kept.at(-1)).toContain('lines of the log are lost');
      if (format === 'text') return;
      const { lines: lost } = records(stderr.taken).at(-1)!;
      // Of those that waited, of the one that found room (or not, at the bound), and the one that says so.
      expect(kept.length - 1 + lost!).toBe(lines + 1);
      const before = stderr.taken.length;
      log.info({}, 'as before');
      expect(records(stderr.taken.slice(before))).toMatchObject([{ msg: 'as before' }]);
    },
  );

  it('a reader that stalls is waited for once, not at each line', () => {
    const stderr = standardError();
    const log = createLogger({ verbosity: 0, format: 'json' });
    stderr.refusal = 'EAGAIN';
    for (let n = 0; n < 100; n++) log.info({ n }, 'nobody reads');
    expect(stderr.asked).toBeLessThan(150);
    stderr.refusal = '';
    log.info({}, 'somebody reads');
    expect(records(stderr.taken)).toHaveLength(101);
  });
});
