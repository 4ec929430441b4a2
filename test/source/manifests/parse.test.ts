import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { stringify } from 'yaml';
import { type ManifestDocument, parseManifest } from '../../../src/source/manifests/parse.ts';

// Properties run many times, and the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

async function parse(text: string): Promise<ManifestDocument[]> {
  const documents: ManifestDocument[] = [];
  for await (const document of parseManifest(text)) documents.push(document);
  return documents;
}

async function valuesOf(text: string): Promise<unknown[]> {
  return (await parse(text)).map((document) => document.value ?? document.error);
}

describe('parseManifest', () => {
  it.each([
    ['nothing', '', []],
    ['comments only', '# a\n---\n# b\n...\n', []],
    ['a byte order mark', '\ufeffa: 1', [{ a: 1 }]],
    ['one document', 'a: 1\n', [{ a: 1 }]],
    ['a marker first', '---\na: 1\n', [{ a: 1 }]],
    ['a comment on the marker', '--- # x\na: 1\n--- \nb: 2\n', [{ a: 1 }, { b: 2 }]],
    ['flow style on the marker', '--- {a: 1}\n--- {b: 2}\n', [{ a: 1 }, { b: 2 }]],
    ['an empty document between', 'a: 1\n---\n---\nb: 2\n', [{ a: 1 }, { b: 2 }]],
    ['an end marker', 'a: 1\n...\n---\nb: 2\n', [{ a: 1 }, { b: 2 }]],
    ['a directive', '%YAML 1.2\n---\na: 1\n', [{ a: 1 }]],
    ['Windows line ends', 'a: 1\r\n---\r\nb: 2\r\n', [{ a: 1 }, { b: 2 }]],
    ['dashes in a block scalar', 'a: |\n  x\n  ---\n  y\nb: 2\n', [{ a: 'x\n---\ny\n', b: 2 }]],
    ['an alias', 'a: &x {b: 1}\nc: *x\n', [{ a: { b: 1 }, c: { b: 1 } }]],
    ['a merge key', 'a: &x {b: 1}\nc:\n  <<: *x\n  d: 2\n', [{ a: { b: 1 }, c: { b: 1, d: 2 } }]],
    ['JSON', '{"a": 1}', [{ a: 1 }]],
    ['JSON values on lines', '{"a": 1}\n{"b": {"c": 2}}\n', [{ a: 1 }, { b: { c: 2 } }]],
    ['JSON pretty', '{\n  "a": {\n    "b": 1\n  }\n}\n{\n  "c": 2\n}\n', [{ a: { b: 1 } }, { c: 2 }]],
    ['JSON between markers', '{"a": 1}\n---\n{"b": 2}\n', [{ a: 1 }, { b: 2 }]],
    ['times as text', 'a: 2024-01-02T03:04:05Z\n', [{ a: '2024-01-02T03:04:05Z' }]],
    ['octal-looking ports as decimal', 'a: 010\n', [{ a: 10 }]],
    ['__proto__ as a plain field', '{"__proto__": {"a": 1}}', [JSON.parse('{"__proto__": {"a": 1}}')]],
  ])('reads %s', async (_what, text, expected) => {
    expect(await valuesOf(text)).toEqual(expected);
  });

  it.each([
    ['broken JSON that is no YAML either', '{"a": [1,', /document 2 line/],
    ['a duplicate key', 'a: 1\na: 2\n', /line 2/],
    ['a custom tag', 'a: !!js/function "x"\n', /tag/i],
    ['an unknown tag', 'a: !secret x\n', /tag/i],
    ['a tab as indentation', 'a:\n\tb: 1\n', /line 2/],
    ['a missing anchor', 'a: *x\n', /./],
    ['nesting without end', `${'['.repeat(100_000)}`, /./],
    ['indicators without end', `${'- '.repeat(100_000)}a`, /nested too deep/],
    [
      'a staircase without end',
      Array.from({ length: 2_000 }, (_, i) => `${' '.repeat(i)}a:`).join('\n'),
      /nested/,
    ],
    ['nesting in JSON without end', `{"a":${'['.repeat(1_000_000)}`, /./],
  ])('says what is wrong with %s and goes on', async (_what, bad, reason) => {
    const documents = await parse(`x: 1\n---\n${bad}\n---\ny: 2\n`);
    expect(documents[0]).toMatchObject({ value: { x: 1 }, error: '' });
    expect(documents.at(-1)).toMatchObject({ label: 'document 3', value: { y: 2 }, error: '' });
    expect(`${documents[1]!.label} ${documents[1]!.error}`).toMatch(
      reason.source.startsWith('line') ? new RegExp(`line ${Number(reason.source.slice(5)) + 2}`) : reason,
    );
    expect(documents[1]!.error).toMatch(/^[\x20-\x7e]+$/);
  });

  it.each([
    ['brackets', `a: ${'['.repeat(140)}${']'.repeat(140)}`],
    ['braces', `a: ${'{a: '.repeat(140)}x${'}'.repeat(140)}`],
    ['steps', Array.from({ length: 140 }, (_, i) => `${' '.repeat(i)}a:`).join('\n')],
    ['indicators', `a:\n ${'- '.repeat(140)}x`],
  ])('copes with as much nesting as it allows: %s', async (_what, text) => {
    expect(await parse(text)).toMatchObject([{ error: '' }]);
  });

  it('does not let an alias bomb grow', async () => {
    let bomb = 'a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n';
    for (let i = 1; i < 12; i++)
      bomb += `a${i}: &a${i} [${Array(10)
        .fill(`*a${i - 1}`)
        .join(',')}]\n`;
    const documents = await parse(bomb);
    expect(documents).toHaveLength(1);
    expect(documents[0]!.error).toMatch(/alias/i);
  });

  it('reads whatever it wrote', async () => {
    const value = fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), fc.jsonValue(), { minKeys: 1 });
    await fc.assert(
      fc.asyncProperty(fc.array(value, { minLength: 1, maxLength: 4 }), async (values) => {
        const plain = JSON.parse(JSON.stringify(values));
        expect(await valuesOf(plain.map((one: unknown) => JSON.stringify(one)).join('\n---\n'))).toEqual(
          plain,
        );
        const text = JSON.stringify(plain);
        // stringify() does not know of merge keys, which we read, and leaves "<<" bare.
        const printable = !/[^\x20-\x7e]/.test(text) && !text.includes('"<<":');
        if (printable) {
          expect(await valuesOf(plain.map((one: unknown) => stringify(one)).join('---\n'))).toEqual(plain);
        }
      }),
    );
  });

  it('never throws for any text', async () => {
    const pieces = fc.constantFrom(
      '---',
      '\n',
      '- ',
      'a: ',
      '"',
      '{',
      '}',
      '[',
      ']',
      '&x ',
      '*x',
      '|',
      ' ',
      '#',
      '%',
      '!t ',
      '...',
      'items:',
      'kind: List',
      '\t',
      '\u0000',
    );
    await fc.assert(
      fc.asyncProperty(fc.array(pieces, { maxLength: 40 }), async (parts) => {
        await parse(parts.join(''));
      }),
      { numRuns: 500 },
    );
  });
});

describe('a large List', () => {
  const item = (i: number, indent: string) =>
    [
      `- name: item-${i}`,
      '  text: |',
      '    - not an item',
      '    items:',
      `  nested:`,
      '  - a',
      '  - b: c',
      '',
    ].join(`\n${indent}`);
  const list = (indent: string, count: number) => {
    const items = Array.from({ length: count }, (_, i) => indent + item(i, indent)).join('\n');
    return `apiVersion: v1\nitems:\n# first\n${items}\nkind: List\nmetadata:\n  resourceVersion: ""\n`;
  };

  it.each([
    ['at the first column', ''],
    ['indented', '    '],
  ])('is cut between its items %s', async (_what, indent) => {
    const documents = await parse(`a: 1\n---\n${list(indent, 3_000)}`);
    expect(documents).toHaveLength(3_001);
    expect(documents[3_000]).toMatchObject({
      label: 'document 2 item 3000',
      value: {
        apiVersion: 'v1',
        kind: 'List',
        items: [{ name: 'item-2999', text: '- not an item\nitems:\n', nested: ['a', { b: 'c' }] }],
      },
    });
  });

  it('loses only the item that is malformed', async () => {
    const text = list('', 3_000).replace('name: item-7\n', 'name: [item-7\n');
    const bad = (await parse(text)).filter((document) => document.error !== '');
    expect(bad.map((document) => document.label)).toEqual(['document 1 item 8']);
    const line = text.slice(0, text.indexOf('[item-7')).split('\n').length;
    expect([`line ${line}`, `line ${line + 1}`]).toContain(bad[0]!.error.split(':')[0]);
  });

  it('is read in one piece when it has anchors', async () => {
    const text = list('', 3_000)
      .replace('name: item-7\n', 'name: &n item-7\n')
      .replace('name: item-8\n', 'name: *n\n');
    const documents = await parse(text);
    expect(documents).toHaveLength(1);
    const { items } = documents[0]!.value as { items: { name: string }[] };
    expect([items[8]!.name, items.length]).toEqual(['item-7', 3_000]);
  });
});
