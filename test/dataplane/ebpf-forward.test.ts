import { spawnSync } from 'node:child_process';
import process from 'node:process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ATTACH_XDP, XDP_NATIVE } from '../../src/dataplane/ebpf/attach-types.ts';
import { ForwardGate, forwardState, skippedBy } from '../../src/dataplane/ebpf/forward-gate.ts';
import { bpfNative } from '../../src/dataplane/ebpf/native.ts';
import { xdpFeatures, xdpSenders } from '../../src/dataplane/ebpf/xdp-senders.ts';
import type { BaseChain } from '../../src/node/netfilter.ts';
import { loadWorld, TestNet, type World } from '../support/bpf-world.ts';
import { NO_PROGRAMS, TAKES_PROGRAMS } from '../support/kernel-age.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(
  privilege() === 'root' && TAKES_PROGRAMS,
  TAKES_PROGRAMS ? 'needs root' : NO_PROGRAMS,
);
const chain = (change: Partial<BaseChain>): BaseChain => ({
  ...{ family: 1, table: 'fw', name: 'fwd', type: 'filter', hook: 2, policy: 1, rules: 1 },
  ...change,
});

describe('what XDP would pass by', () => {
  test.each([
    ['a rule for what is forwarded', chain({}), true],
    ['one before routing', chain({ family: 2, hook: 0 }), true],
    ['one after it', chain({ family: 10, hook: 4 }), true],
    ['a policy without rules', chain({ rules: 0, policy: 0 }), true],
    ['a chain without rules', chain({ rules: 0 }), false],
    ['translation', chain({ type: 'nat', hook: 4 }), false],
    ['what the node itself gets', chain({ hook: 1 }), false],
    ['what the node itself sends', chain({ hook: 3 }), false],
    ['a bridge', chain({ family: 7 }), false],
    ['ours', chain({ table: 'triplane' }), false],
    ['ours to come', chain({ table: 'triplane-next' }), false],
    ['somebody whose name begins like ours', chain({ table: 'triplanes' }), true],
  ] as const)('%s', (_, one, counts) => {
    expect(skippedBy([one], []).length).toBe(counts ? 1 : 0);
  });

  test('tables of the older iptables count, but for translation', () => {
    expect(skippedBy([], ['ip filter', 'ip nat', 'ip6 mangle'])).toEqual([
      'iptables ip filter',
      'iptables ip6 mangle',
    ]);
  });

  test('what follows', () => {
    const many = ['a', 'b', 'c', 'd', 'e'];
    expect(forwardState('auto', [])).toEqual({ forward: 'allowed', reason: '' });
    expect(forwardState('auto', many)).toEqual({
      forward: 'never',
      reason: 'would pass by: a, b, c and 2 more',
    });
    expect(forwardState('always', ['a'])).toEqual({ forward: 'allowed', reason: 'passes by: a' });
    expect(forwardState('never', []).forward).toBe('never');
  });
});

test('a device that nobody knows, or a kernel that does not tell, has no features', () => {
  expect(xdpFeatures('', 0x7fff_fff0)).toBe(-1);
});

describe('by which devices XDP may send', () => {
  const role = (type: string, uplink: boolean) => ({
    ...{ name: 'x', type, attach: true, loopback: false, uplink, pods: false, nat: { 4: null, 6: null } },
  });
  const XMIT = 4;
  test.each([
    ['no XDP anywhere', [], [['', true]], {}, []],
    [
      'generic: everything',
      [[1, 'generic']],
      [
        ['', true],
        ['vxlan', false],
      ],
      {},
      [1, 2],
    ],
    [
      'native: back where it came from',
      [[1, 'native']],
      [
        ['', true],
        ['', false],
      ],
      {},
      [1],
    ],
    [
      'native: and by what says so',
      [[1, 'native']],
      [
        ['', true],
        ['', false],
      ],
      { 2: XMIT },
      [1, 2],
    ],
    [
      'two native ones that do not take from each other',
      [
        [1, 'native'],
        [2, 'native'],
      ],
      [
        ['', true],
        ['', true],
      ],
      {},
      [],
    ],
    ['a veth, whose other end is not ready', [[1, 'native']], [['veth', true]], { 1: 3 }, []],
    ['a veth, whose other end is', [[1, 'native']], [['veth', true]], { 1: 7 }, [1]],
  ] as [string, [number, 'native' | 'generic'][], [string, boolean][], Record<number, number>, number[]][])(
    '%s',
    (_, modes, roles, features, expected) => {
      const all = new Map(roles.map(([type, uplink], i) => [i + 1, role(type, uplink)]));
      const found = xdpSenders(all, new Map(modes), (ifindex) => features[ifindex] ?? -1);
      expect([...found]).toEqual(expected);
    },
  );
});

root.describe('the gate', () => {
  const name = `tpfwd${process.pid}`;
  const run = (...args: string[]) => {
    const result = spawnSync('nsenter', [`--net=/run/netns/${name}`, ...args], { encoding: 'utf8' });
    if (result.status !== 0) throw new Error(result.stderr);
  };
  beforeAll(() => {
    spawnSync('ip', ['netns', 'add', name]);
  });
  afterAll(() => {
    spawnSync('ip', ['netns', 'del', name]);
  });

  test('opens and shuts as rules come and go, and names them', async () => {
    const states: string[] = [];
    const gate = new ForwardGate('auto', `/run/netns/${name}`, () => states.push(gate.state.forward));
    await gate.begin();
    try {
      expect(gate.state).toEqual({ forward: 'allowed', reason: '' });
      run('nft', 'add table inet fw');
      run('nft', 'add chain inet fw to_pods { type filter hook forward priority 0; }');
      await gate.look();
      expect(gate.state.forward).toBe('allowed');
      run('nft', 'add rule inet fw to_pods ct state invalid drop');
      await gate.look();
      expect(gate.state).toEqual({ forward: 'never', reason: 'would pass by: inet fw to_pods (forward)' });
      run('nft', 'delete table inet fw');
      await gate.look();
      expect(states).toEqual(['allowed', 'never', 'allowed']);
    } finally {
      await gate.close();
    }
  });
});

root.describe('what a device says of itself', () => {
  let net: TestNet;
  let world: World;
  beforeAll(async () => {
    net = new TestNet('f');
    world = await loadWorld();
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });

  test('a veth takes something from XDP once its other end is ready, not before', (context) => {
    const [near, far] = ['up0', 'up1'].map((name) => net.device(name).ifindex) as [number, number];
    if (xdpFeatures('', near) < 0) context.skip('needs Linux 6.3');
    const role = { name: 'up0', type: 'veth', attach: true, loopback: false, uplink: true, pods: false };
    const roles = new Map([[near, { ...role, nat: { 4: null, 6: null } }]]);
    const senders = () => [...xdpSenders(roles, new Map([[near, 'native']]), (one) => xdpFeatures('', one))];
    const attach = (ifindex: number) =>
      bpfNative().bpfLinkDevice(world.programs.tp_xdp!, ifindex, ATTACH_XDP, XDP_NATIVE, '');
    const own = attach(near);
    expect(bpfNative().bpfXdpMode(near, '')).toBe(1);
    expect(senders()).toEqual([]);
    const others = attach(far);
    expect(senders()).toEqual([near]);
    for (const link of [own, others]) bpfNative().bpfClose(link);
  });
});
