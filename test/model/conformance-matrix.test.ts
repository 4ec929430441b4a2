import { describe, expect, it } from 'vitest';
import { matrixLines, writtenLines } from '../support/conformance-matrix.ts';
import { CONFORMANCE } from './conformance.ts';
import { RULES } from './scenes.ts';

describe('the conformance table', () => {
  it('has at least 300 flows, and some for every rule', () => {
    expect(CONFORMANCE.length).toBeGreaterThanOrEqual(300);
    const rules = new Set(CONFORMANCE.map(({ rule }) => rule));
    expect(Object.keys(RULES).filter((rule) => !rules.has(rule as never))).toEqual([]);
  });

  it('is counted by docs/conformance.md (npm run conformance)', () => {
    expect(writtenLines()).toEqual(matrixLines());
  });
});
