import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatDuration, parseDurationMs } from '../../src/config/duration.ts';

describe('durations as Go writes them', () => {
  it.each([
    ['0', 0],
    ['0s', 0],
    ['-0s', 0],
    ['30s', 30_000],
    ['1h2m3.5s', 3_723_500],
    ['+5m', 300_000],
    ['-1.5s', -1500],
    ['.5s', 500],
    ['1.s', 1000],
    ['300ms', 300],
    ['1us', 0.001],
    ['1µs', 0.001],
    ['1μs', 0.001],
    ['1ns', 0.000001],
    ['2562047h', 2562047 * 3_600_000],
  ])('%s is %d ms', (text, durationMs) => expect(parseDurationMs(text)).toBe(durationMs));

  it.each([
    '',
    '5',
    '-',
    '+',
    's',
    '1x',
    '1h ',
    ' 1h',
    '1 h',
    '1h2',
    '.s',
    '1e3s',
    '0x5s',
    '3000000h',
    '--1s',
    '1,5s',
  ])('%j is none', (text) => expect(parseDurationMs(text)).toBeNull());

  it.each([
    [0, '0s'],
    [1, '1ms'],
    [1.5, '1.5ms'],
    [0.001, '1µs'],
    [0.0015, '1.5µs'],
    [0.000001, '1ns'],
    [1000, '1s'],
    [60_000, '1m0s'],
    [3_600_000, '1h0m0s'],
    [86_400_000, '24h0m0s'],
    [3_723_500, '1h2m3.5s'],
    [-1500, '-1.5s'],
  ])('%d ms is printed as %s', (durationMs, text) => expect(formatDuration(durationMs)).toBe(text));

  it('reads what it prints', () => {
    fc.assert(
      fc.property(fc.integer({ min: -1e9, max: 1e9 }), fc.integer({ min: 0, max: 999_999 }), (ms, ns) => {
        const durationMs = Math.round(ms * 1e3 + ns / 1e3) / 1e3 + 0; // never -0
        expect(parseDurationMs(formatDuration(durationMs))).toBe(durationMs);
      }),
    );
  });

  it('never throws', () => {
    fc.assert(fc.property(fc.string(), (text) => void parseDurationMs(text)));
  });
});
