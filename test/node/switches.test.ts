import { describe, expect, test } from 'vitest';
import { parseSwitches } from '../../src/node/switches.ts';

describe('TRIPLANE_WITHOUT', () => {
  test.each([
    ['', []],
    [' , ', []],
    ['tcx', ['tcx']],
    ['socket, tcx,socket', ['tcx', 'socket']],
  ])('%j', (text, off) => {
    expect(parseSwitches(text)).toEqual(off);
  });

  test('what is no feature is named, and so are those that there are', () => {
    expect(() => parseSwitches('tcx,colour,Socket')).toThrow(
      /no feature is called colour, Socket; there are nft, /,
    );
  });
});
