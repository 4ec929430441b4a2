/**
 * What a kernel of this version has. By the number, which the product never asks for: here it says what is expected,
 * so that a product that does not find it fails the test instead of skipping it.
 */
import os from 'node:os';

const [MAJOR = 0, MINOR = 0] = os.release().split('.').map(Number);

const isAtLeast = (major: number, minor: number) => MAJOR > major || (MAJOR === major && MINOR >= minor);

/** Compare-and-swap in BPF programs, without which ours do not load. */
export const TAKES_PROGRAMS = isAtLeast(5, 12);
export const NO_PROGRAMS = 'needs compare-and-swap in BPF programs (Linux 5.12)';

/** Links of programs at tc. */
export const HAS_TCX = isAtLeast(6, 6);
export const NO_TCX = 'needs tcx (Linux 6.6)';
