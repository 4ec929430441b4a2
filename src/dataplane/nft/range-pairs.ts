/**
 * The sets of ranges (pods, service-cidrs): a range is two elements, its start and its exclusive end; one that
 * reaches the last address is a start alone. Linux 6.18 (nft_set_rbtree.c) takes an end only right after its
 * own start, when it is added and when it is removed, so a range changes whole or not at all.
 */
import type { ElementValue } from './elements.ts';
import { SET } from './layout.ts';
import { INTERVAL_END } from './packed.ts';

export function isRangeSet(set: number): boolean {
  return set === SET.pods || set === SET.serviceCIDRs;
}

/** Ranges by their elements, for elements in the order in which emitNode() gives them: start, end, start, ... */
function rangesOf(elements: Iterable<ElementValue>): Map<string, ElementValue[]> {
  const ranges: ElementValue[][] = [];
  for (const element of elements) {
    if (!isRangeSet(element.set)) continue;
    if (element.key.charCodeAt(0) === INTERVAL_END) ranges.at(-1)?.push(element);
    else ranges.push([element]);
  }
  return new Map(ranges.map((range) => [range.map(({ set, key }) => `${set} ${key}`).join(), range]));
}

/** The ranges of `now` that are not in `before`, as elements in order. */
export function newRanges(
  before: Iterable<ElementValue>,
  now: Iterable<ElementValue>,
): readonly ElementValue[] {
  const old = rangesOf(before);
  return [...rangesOf(now)].filter(([key]) => !old.has(key)).flatMap(([, range]) => range);
}
