/** When a datagram flow that sockets remember has been used of late, by two readings of a clock of 16 bits. */
import { expect, test } from 'vitest';
import { isRecent } from '../../src/dataplane/ebpf/sockets.ts';

test.each([
  ['just now', 1000, 1000, true],
  ['as long ago as it may be', 1000, 970, true],
  ['longer ago', 1000, 969, false],
  ['across the end of the clock', 5, 0xffff, true],
  ['longer ago across the end of the clock', 5, 0xff00, false],
  ['after the clock was read', 1000, 1001, true],
  ['after the clock was read, across its end', 0xffff, 0, true],
])('%s', (_, now, used, recent) => {
  expect(isRecent(now, used, 30)).toBe(recent);
});
