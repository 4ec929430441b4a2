/** Probing this very kernel. */
import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { readLinks } from '../../src/node/rtnetlink.ts';
import { probeKernel } from '../../src/probe/probe.ts';
import { ipvs } from '../support/ipvs.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', "needs the machine's root");

root.test('what was tried has an answer, and nothing is left behind', async () => {
  const before = [readLinks(''), readdirSync('/run')];
  const { rows, auto } = await probeKernel();
  expect(rows.filter(({ answer }) => answer === 'unknown')).toEqual([]);
  for (const { answer, remedy } of rows) expect(remedy === '').toBe(answer === 'yes');
  expect(auto.reason).not.toBe('');
  expect([readLinks(''), readdirSync('/run')]).toEqual(before);
});

ipvs.test('a kernel with IPVS and its modules has all that ipvs needs', async () => {
  const rows = (await probeKernel()).rows.filter(({ mode }) => mode === 'ipvs');
  expect(rows.filter(({ answer }) => answer !== 'yes')).toEqual([]);
  expect(rows.length).toBeGreaterThan(3);
});

test('without privilege the report still stands', async () => {
  const { kernel, rows } = await probeKernel();
  expect(kernel).not.toBe('');
  expect(rows.length).toBeGreaterThan(0);
});
