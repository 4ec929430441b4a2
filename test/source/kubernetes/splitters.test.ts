import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { LineSplitter } from '../../../src/source/kubernetes/lines.ts';
import { ListSplitter } from '../../../src/source/kubernetes/list-splitter.ts';

// Properties run many times, and the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

/** The bytes of a text, cut anywhere, also within a character. */
function cut(text: string, sizes: readonly number[]): Buffer[] {
  const bytes = Buffer.from(text);
  const chunks: Buffer[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length]!;
    chunks.push(bytes.subarray(at, at + size));
    at += size;
  }
  return chunks;
}

function split(
  text: string,
  sizes: readonly number[],
  bytesMax = 1e6,
): { items: unknown[]; envelope: unknown } {
  const splitter = new ListSplitter(bytesMax);
  const items: unknown[] = [];
  for (const chunk of cut(text, sizes)) items.push(...splitter.feed(chunk));
  return { items, envelope: splitter.end() };
}

const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 8 });
const item = fc.dictionary(
  fc.oneof(fc.constantFrom('items', 'metadata', '"', '\\', '[{'), fc.string()),
  fc.oneof(fc.jsonValue(), fc.string({ unit: 'binary' })),
);

describe('ListSplitter', () => {
  it('finds what JSON.parse finds, wherever the bytes are cut', () => {
    const space = fc.constantFrom(0, 1, '\t');
    const before = fc.dictionary(fc.constantFrom('kind', 'a', 'items2', 'item'), fc.jsonValue());
    const after = fc.dictionary(fc.constantFrom('metadata', 'b', 'itemsx'), fc.jsonValue());
    fc.assert(
      fc.property(
        fc.array(item, { maxLength: 6 }),
        before,
        after,
        sizes,
        space,
        (items, a, b, pieces, indent) => {
          const list = JSON.parse(JSON.stringify({ ...a, items, ...b }));
          const found = split(JSON.stringify(list, null, indent), pieces);
          expect(found.items).toEqual(list.items);
          expect(found.envelope).toEqual({ ...list, items: [] });
        },
      ),
      { numRuns: 500 },
    );
  });

  it('never takes a list that was cut off for a whole one', () => {
    const text = JSON.stringify({
      kind: 'ServiceList',
      metadata: { resourceVersion: '1' },
      items: [{ a: 1 }, { b: [{}] }],
    });
    for (let end = 0; end < text.length; end++) expect(() => split(text.slice(0, end), [7])).toThrow();
  });

  it.each([
    ['HTML', '<html>'],
    ['a list', '[]'],
    ['two objects', '{"items":[]}{"items":[]}'],
    ['a number as an item', '{"items":[1]}'],
    ['a string as an item', '{"items":["x"]}'],
    ['null as an item', '{"items":[null]}'],
    ['a list as an item', '{"items":[[]]}'],
    ['brackets that do not match', '{"items":[{"a":[}]}]}'],
    ['too many closing brackets', '{"items":[]}}'],
    ['no end', `{"a":"${'x'.repeat(2_000_000)}`],
  ])('refuses %s', (_what, text) => {
    expect(() => split(text, [1_000])).toThrow();
  });

  it.each([[1], [100], [1e6]])('bounds an item in chunks of %d bytes', (size) => {
    const text = JSON.stringify({ items: [{ a: 'x' }, { a: 'x'.repeat(2_000) }] });
    expect(() => split(text, [size], 1_000)).toThrow(/more than 1000 bytes/);
    expect(split(text, [size], 3_000).items).toHaveLength(2);
  });

  it('leaves lists named items elsewhere alone', () => {
    const list = { metadata: { items: [{ no: 1 }] }, x: 'items', items: [{ items: [{ no: 2 }] }] };
    const found = split(JSON.stringify(list), [3]);
    expect(found.items).toEqual([{ items: [{ no: 2 }] }]);
    expect(found.envelope).toEqual({ ...list, items: [] });
  });
});

describe('LineSplitter', () => {
  it('finds the lines, wherever the bytes are cut', () => {
    const line = fc.string({ unit: 'grapheme', minLength: 1 }).filter((text) => !text.includes('\n'));
    fc.assert(
      fc.property(
        fc.array(line),
        sizes,
        fc.string().filter((text) => !text.includes('\n')),
        (lines, pieces, rest) => {
          const splitter = new LineSplitter(1e6);
          const found = cut(lines.map((text) => `${text}\n`).join('') + rest, pieces).flatMap((chunk) => [
            ...splitter.feed(chunk),
          ]);
          expect(found).toEqual(lines);
          expect(splitter.pendingBytes).toBe(Buffer.byteLength(rest));
        },
      ),
    );
  });

  it('bounds a line', () => {
    const splitter = new LineSplitter(1_000);
    const feed = () => {
      for (let i = 0; i < 20; i++) [...splitter.feed(Buffer.alloc(100, 'x'))];
    };
    expect(feed).toThrow(/more than 1000 bytes/);
  });
});
