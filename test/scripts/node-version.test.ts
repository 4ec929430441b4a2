import { expect, test } from 'vitest';
import { nodeIsRecentEnough } from '../../scripts/lib/node-version.mjs';
import { readText } from '../support/checkout.ts';

test.each([
  ['12.22.12', false],
  ['18.20.4', false],
  ['20.18.3', false],
  ['20.19.0', true],
  ['20.20.2', true],
  ['21.7.3', false],
  ['22.18.0', false],
  ['22.19.0', true],
  ['23.0.0', true],
  ['26.1.0', true],
])('Node %s: %s', (version, enough) => {
  expect(nodeIsRecentEnough(version)).toBe(enough);
});

test('package.json says the same', () => {
  expect(JSON.parse(readText('package.json')).engines.node).toBe('^20.19.0 || >=22.19.0');
});

test('what an old Node has to read uses no syntax it does not know', () => {
  for (const file of ['scripts/setup.mjs', 'scripts/test.mjs', 'scripts/lib/node-version.mjs']) {
    // Optional chaining, nullish coalescing and await outside of functions came with Node 14.
    expect(readText(file)).not.toMatch(/\?\.|\?\?|^\s*(const .*= )?await\s|import\.meta\.dirname/m);
  }
});
