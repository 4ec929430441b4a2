import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ThisNode } from '../../src/agent/this-node.ts';
import { parseAddress, parseCidr } from '../../src/model/address.ts';
import type { NodeRecord, RecordChange } from '../../src/model/records.ts';

const BARE: NodeRecord = {
  ...{ kind: 'Node', name: 'n1', uid: '', zone: '', addresses: [], podCIDRs: [] },
  ...{ deleting: false, taints: [], settings: {} },
};
const set = (fields: Partial<NodeRecord> = {}): RecordChange => ({
  op: 'set',
  record: { ...BARE, ...fields },
});
const ADDRESSED = { addresses: [parseAddress('10.0.0.1')!] };
const COMPLETE = { ...ADDRESSED, podCIDRs: [parseCidr('10.1.0.0/24')!] };
const GONE: RecordChange = { op: 'delete', kind: 'Node', key: 'n1' };
const MODES = ['ClusterCIDR', 'NodeCIDR', 'BridgeInterface', 'InterfaceNamePrefix'] as const;

function setUp(mode: (typeof MODES)[number], isAwaited: 'yes' | 'no' = 'yes') {
  const lines: string[] = [];
  const say = (_fields: object, message: string) => void lines.push(message);
  const log = { error: say, warn: say, info: say, debug: say, trace: say };
  const onReady = vi.fn();
  const node = new ThisNode({ name: 'n1', log, isAwaited, onReady }, mode);
  const learn = (...changes: RecordChange[]) => {
    node.note(changes);
    node.look();
  };
  return { node, learn, lines, ready: () => onReady.mock.calls.length };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe('what the agent waits for', () => {
  test.each(MODES)('%s: nothing before the lists are in', (mode) => {
    const { node, learn, ready } = setUp(mode);
    learn(set(COMPLETE));
    vi.advanceTimersByTime(3_600_000);
    expect(ready()).toBe(0);
    node.synced();
    expect(ready()).toBe(1);
  });

  test.each(MODES)('%s: a Node with addresses, and pod CIDRs where they count', (mode) => {
    const { node, learn, ready, lines } = setUp(mode);
    node.synced();
    expect(lines.join()).toMatch(/waiting: Node n1 does not exist yet/);
    expect(node.waitingFor).toMatch(/^Node n1 does not exist yet/);
    learn(set());
    learn(set({ name: 'n2', ...COMPLETE }));
    expect(ready()).toBe(0);
    learn(set(ADDRESSED));
    expect(ready()).toBe(mode === 'NodeCIDR' ? 0 : 1);
    learn(set(COMPLETE));
    learn(set(COMPLETE));
    expect(ready()).toBe(1);
    expect(node.waitingFor).toBe('');
    expect(vi.getTimerCount()).toBe(0);
  });

  test('after 30 s it goes on without addresses, and says so', () => {
    const { node, ready, lines } = setUp('ClusterCIDR');
    node.synced();
    vi.advanceTimersByTime(29_999);
    expect(ready()).toBe(0);
    vi.advanceTimersByTime(1);
    expect(ready()).toBe(1);
    expect(lines.at(-1)).toMatch(/going on with the addresses of this machine/);
  });

  test('never without pod CIDRs, of which it reminds; another detect mode ends the wait', () => {
    const { node, learn, ready, lines } = setUp('NodeCIDR');
    node.synced();
    learn(set(ADDRESSED));
    vi.advanceTimersByTime(3_600_000);
    expect(ready()).toBe(0);
    expect(lines.filter((line) => line.includes('has no pod CIDR yet')).length).toBeGreaterThan(50);
    node.look('ClusterCIDR');
    expect(ready()).toBe(1);
  });

  test('manifests need no Node', () => {
    const { node, ready } = setUp('NodeCIDR', 'no');
    node.synced();
    expect(ready()).toBe(1);
  });

  test('an agent that ends waits for nothing', () => {
    const { node } = setUp('ClusterCIDR');
    node.synced();
    node.stop();
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('a Node that goes', () => {
  test('is not known any more, until there is one again', () => {
    const { node, learn } = setUp('ClusterCIDR');
    learn(set(ADDRESSED));
    expect(node.known).toBe(true);
    learn({ op: 'delete', kind: 'Node', key: 'n2' }, { op: 'delete', kind: 'Service', key: 'n1' });
    expect(node.known).toBe(true);
    learn(GONE);
    expect(node.known).toBe(false);
    learn(GONE, set(COMPLETE));
    expect(node.known).toBe(true);
    learn(set(ADDRESSED), GONE);
    expect(node.known).toBe(false);
  });

  test.each(['yes', 'no'] as const)('is absent; awaited: %s', (isAwaited) => {
    const { node, learn } = setUp('ClusterCIDR', isAwaited);
    expect(node.absent).toBe(isAwaited === 'yes');
    learn(GONE);
    expect(node.absent).toBe(isAwaited === 'yes');
    learn(set(ADDRESSED));
    expect(node.absent).toBe(false);
    learn(GONE);
    expect(node.absent).toBe(true);
  });
});
