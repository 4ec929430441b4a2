/** Templates of persistence as ip_vs_conn_seq_show (net/netfilter/ipvs/ip_vs_conn.c) prints them. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readTemplates, templateOf } from '../../src/dataplane/ipvs/affinities.ts';
import { markOf } from '../../src/dataplane/ipvs/marks.ts';

const hex = (mark: number) => mark.toString(16).toUpperCase().padStart(8, '0');
const HEAD = 'Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData';
const FOUR = `IP  0A0A0105 0000 ${hex(markOf(7))} 0000 0A0A0203 0000 NONE            598`;
const SIX = `IP  fd00:0010:0000:0000:0000:0000:0000:0005 0000 ${hex(markOf(9)).slice(0, 4)}:${hex(markOf(9)).slice(4)}:0000:0000:0000:0000:0000:0000 0000 fd00:0010:0000:0000:0000:0000:0000:0203 0000 NONE            17`;

test.each([
  ['IPv4', FOUR, { family: 4, pool: 7, client: '10.10.1.5', backend: '10.10.2.3', secondsLeft: 598 }],
  ['IPv6', SIX, { family: 6, pool: 9, client: 'fd00:10::5', backend: 'fd00:10::203', secondsLeft: 17 }],
  ['the head', HEAD, null],
  ['a connection', 'TCP 0A0A0105 C350 0AC8010A 2328 0A0A0203 0050 ESTABLISHED     899', null],
  ['a template of an address', 'TCP 0A0A0105 0000 0AC8010A 2328 0A0A0203 0050 NONE            598', null],
  ['a template of another mark', 'IP  0A0A0105 0000 00000001 0000 0A0A0203 0000 NONE            598', null],
  ['nothing', '', null],
  ['no addresses', `IP  what 0000 ${hex(markOf(7))} 0000 ever 0000 NONE 5`, null],
])('%s', (_title, line, expected) => {
  expect(templateOf(line)).toEqual(expected);
});

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), `tp-ipvs-${process.pid}-`));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a whole file', async () => {
  const file = path.join(folder, 'ip_vs_conn');
  writeFileSync(file, `${[HEAD, FOUR, SIX].join('\n')}\n`);
  expect((await readTemplates(file)).map(({ pool }) => pool)).toEqual([7, 9]);
});

test('a kernel that has no such file remembers nobody', async () => {
  expect(await readTemplates(path.join(folder, 'none'))).toEqual([]);
});
