import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseAddress, parseCidr } from '../../src/model/address.ts';
import type { Address, Cidr, Family } from '../../src/model/records.ts';
import type { NodeAddress } from '../../src/node/addresses.ts';
import {
  detectNodeIPs,
  type NodePortSetting,
  nodePortAddresses,
  nodePortWarnings,
} from '../../src/node/node-ips.ts';

const a = (text: string) => parseAddress(text)!;
const list = (text: string) => text.split(' ').filter(Boolean).map(a);
const cidrs = (text: string) =>
  text
    .split(' ')
    .filter(Boolean)
    .map((cidr) => parseCidr(cidr)!);

describe('detectNodeIPs', () => {
  const defaults = { 4: a('192.0.2.1'), 6: a('2001:db8::1') };
  it.each([
    ['nothing known but the routes', '', '', 4, '192.0.2.1', '2001:db8::1'],
    ['the node, one family', '', '10.0.0.1', 4, '10.0.0.1', null],
    ['the node, two families', '', '10.0.0.1 fd00::1', 4, '10.0.0.1', 'fd00::1'],
    ['the node, IPv6 first', '', 'fd00::1 10.0.0.1', 6, '10.0.0.1', 'fd00::1'],
    ['only the first of a family', '', '10.0.0.1 10.0.0.2 fd00::1', 4, '10.0.0.1', 'fd00::1'],
    ['the bind address goes first', '10.9.9.9', 'fd00::1 10.0.0.1', 4, '10.9.9.9', 'fd00::1'],
    ['an unspecified one says nothing', '0.0.0.0', 'fd00::1', 6, null, 'fd00::1'],
    ['nor does this', '::', '10.0.0.1', 4, '10.0.0.1', null],
    ['bind address and routes', 'fd00::9', '', 6, '192.0.2.1', 'fd00::9'],
  ] as const)('%s', (_name, bind, node, primaryFamily, v4, v6) => {
    const bindAddress = bind === '' ? null : a(bind);
    expect(detectNodeIPs({ bindAddress, nodeAddresses: list(node), defaults })).toEqual({
      primaryFamily,
      byFamily: { 4: v4, 6: v6 },
    });
  });

  it('says so when nothing at all is known', () => {
    const nothing = { bindAddress: null, nodeAddresses: [], defaults: { 4: null, 6: null } };
    expect(detectNodeIPs(nothing)).toEqual({ primaryFamily: 4, byFamily: { 4: null, 6: null } });
    expect(detectNodeIPs({ ...nothing, defaults: { 4: null, 6: a('fd00::1') } }).primaryFamily).toBe(6);
  });
});

function book(text: string): NodeAddress[] {
  return list(text).map((address) => ({
    family: address.includes(':') ? 6 : 4,
    address,
    prefixLength: 24,
    scope: 'global',
    interfaceIndex: 2,
    interfaceName: 'eth0',
    tentative: false,
    deprecated: false,
    temporary: false,
    secondary: false,
  }));
}

describe('nodePortAddresses', () => {
  const all = book('127.0.0.1 ::1 10.0.0.1 10.0.0.2 10.1.0.1 169.254.1.1 fd00::1 fd00::2 fe80::1');
  const both = { primaryFamily: 4 as Family, byFamily: { 4: a('10.0.0.1'), 6: a('fd00::1') } };
  const four = { primaryFamily: 4 as Family, byFamily: { 4: a('10.0.0.1'), 6: null } };
  const every4 = '10.0.0.1 10.0.0.2 10.1.0.1 169.254.1.1';
  const every6 = 'fd00::1 fd00::2 fe80::1';
  it.each([
    ['primary, both families', 'primary', both, '10.0.0.1', 'fd00::1'],
    // kube-proxy warns of this and does it.
    ['primary, the other family unknown: all of it', 'primary', four, '10.0.0.1', every6],
    [
      'primary, not on any interface',
      'primary',
      { primaryFamily: 4, byFamily: { 4: a('203.0.113.1'), 6: a('fd00::1') } },
      '',
      'fd00::1',
    ],
    [
      'primary, only loopback known',
      'primary',
      { primaryFamily: 4, byFamily: { 4: a('127.0.0.1'), 6: a('::1') } },
      every4,
      every6,
    ],
    ['no range', '', both, every4, every6],
    ['all of both', '0.0.0.0/0 ::/0', both, every4, every6],
    ['one range: the other family is not limited', '10.0.0.0/24', both, '10.0.0.1 10.0.0.2', every6],
    ['ranges of both', '10.1.0.0/16 fd00::2/128', both, '10.1.0.1', 'fd00::2'],
    ['overlapping ranges', '10.0.0.0/8 10.0.0.0/24', both, '10.0.0.1 10.0.0.2 10.1.0.1', every6],
    ['loopback never', '127.0.0.0/8 ::1/128', both, '', ''],
    ['link-local as asked', 'fe80::/10 169.254.0.0/16', both, '169.254.1.1', 'fe80::1'],
    ['everything makes the rest pointless', '10.1.0.0/16 0.0.0.0/0', both, every4, every6],
  ] as const)('%s', (_name, setting, nodeIPs, v4, v6) => {
    const wanted: NodePortSetting = setting === 'primary' ? 'primary' : cidrs(setting);
    expect(nodePortAddresses(wanted, nodeIPs, all)).toEqual({ 4: list(v4), 6: list(v6) });
  });

  it('gives each address once, in order, whatever the book says twice', () => {
    const shuffled = fc.shuffledSubarray([...all, ...all], { minLength: 0 });
    fc.assert(
      fc.property(shuffled, (some) => {
        const found = nodePortAddresses([], both, some);
        for (const family of [4, 6] as const) {
          expect(new Set(found[family]).size).toBe(found[family].length);
          const sorted = list(family === 4 ? every4 : every6).filter((address) =>
            found[family].includes(address),
          );
          expect(found[family]).toEqual(sorted);
        }
      }),
    );
  });
});

describe('nodePortWarnings', () => {
  const both = {
    primaryFamily: 4 as Family,
    byFamily: { 4: '10.0.0.1' as Address, 6: 'fd00::1' as Address },
  };
  it.each([
    ['', false, /all addresses of this node/],
    ['10.0.0.0/8', false, null],
    ['10.0.0.0/8', true, /no IPv6 range/],
    ['fd00::/8', false, /no IPv4 range/],
    ['10.0.0.0/8 fd00::/8', true, null],
    ['10.0.0.0/8 127.0.0.0/8', false, /names 127\.0\.0\.0\/8: NodePorts never answer on loopback/],
    ['10.0.0.0/8 fd00::/8 ::1/128', true, /names ::1\/128: NodePorts never answer on loopback/],
    ['0.0.0.0/0 ::/0', true, null],
  ] as const)('%s, dual stack %s', (setting, dualStack, expected) => {
    const found = nodePortWarnings(cidrs(setting) as readonly Cidr[], both, { dualStack });
    if (expected) expect(found).toEqual([expect.stringMatching(expected)]);
    else expect(found).toEqual([]);
  });
});
