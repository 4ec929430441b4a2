/** Tests that take minutes in all: `TRIPLANE_TEST_LONG=1` runs them, `npm test` by itself leaves them out. */
import process from 'node:process';
import { skipUnless } from './skip.ts';

export const isLong = process.env.TRIPLANE_TEST_LONG === '1';
export const LONG = skipUnless(isLong, 'takes long; TRIPLANE_TEST_LONG=1 runs it');
