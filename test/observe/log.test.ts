import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
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
