import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ABI, COUNTERS, LAYOUTS, readAddress, writeAddress } from '../../src/dataplane/ebpf/abi.ts';
import { bpfNative, bpfObjectPath } from '../../src/dataplane/ebpf/native.ts';
import { parseAddress } from '../../src/model/address.ts';
import type { Address, Family } from '../../src/model/records.ts';
import { readText } from '../support/checkout.ts';

const structs = bpfNative().bpfStructs(bpfObjectPath());
const header = ['abi.h', 'counters.h', 'limits.h'].map((name) => readText(`bpf/${name}`)).join('\n');

describe('the codec agrees with the object', () => {
  test.each(Object.entries(LAYOUTS))('%s', (name, layout) => {
    expect(structs[name]).toEqual(layout);
  });

  test('and with the header: every constant', () => {
    for (const [name, value] of Object.entries(ABI)) {
      const define = new RegExp(`#define TP_${name} (\\d+)$`, 'm').exec(header);
      const member = new RegExp(`\\bTP_${name} = ([\\d <]+),`).exec(header);
      const text = (define ?? member)?.[1];
      expect(text, `TP_${name}`).toBeDefined();
      const [number, shift = '0'] = text!.split('<<');
      expect(Number(number) << Number(shift), `TP_${name}`).toBe(value);
    }
  });

  test('and with the header: the counters, in order', () => {
    const body = /enum tp_counter \{(.*?)\}/s.exec(header)![1]!;
    const names = [...body.matchAll(/TP_N_(\w+)/g)].map((match) => match[1]!.toLowerCase());
    expect(names).toEqual([...COUNTERS]);
  });

  test('no pin or kernel name is too long or has a dot', () => {
    const names = [...readFileSync('bpf/maps.h', 'utf8').matchAll(/\b(tp_\w+) SEC\("\.maps"\)/g)].map(
      (m) => m[1]!,
    );
    expect(names.filter((name) => name.length > 15 || name.includes('.'))).toEqual([]);
  });
});

describe('addresses', () => {
  test.each([
    ['10.0.0.1', 4],
    ['255.255.255.255', 4],
    ['::', 6],
    ['::1', 6],
    ['fd00::1', 6],
    ['2001:db8:0:1:0:0:0:2', 6],
    ['1:0:0:2:0:0:3:4', 6],
    ['fe80::1:2:3:4', 6],
    ['1:2:3:4:5:6:7:8', 6],
    ['1:2:3:4:5:6:7:0', 6],
  ] as [string, Family][])('%s', (text, family) => {
    const address = parseAddress(text) as Address;
    const bytes = new Uint8Array(24).fill(0xee);
    writeAddress(bytes, 4, address);
    expect(readAddress(bytes, 4, family)).toBe(address);
    expect([bytes[3], bytes[20]]).toEqual([0xee, 0xee]);
  });
});
