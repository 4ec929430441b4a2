import { describe, expect, it } from 'vitest';
import { decodeNode } from '../../../src/source/decode/node.ts';
import { decodeServiceCidr } from '../../../src/source/decode/service-cidr.ts';
import { node, serviceCidr } from './objects.ts';

describe('decodeNode', () => {
  it('reads everything that a full object has', () => {
    const raw = node(
      {
        podCIDR: '10.10.1.0/24',
        podCIDRs: ['10.10.1.0/24', 'FD00:10::/64'],
        taints: [{ key: 'node.cloudprovider.kubernetes.io/uninitialized', effect: 'NoSchedule' }],
      },
      {
        uid: 'u-1',
        labels: { 'topology.kubernetes.io/zone': 'eu-1a' },
        deletionTimestamp: '2024-01-02T03:04:05Z',
        annotations: { 'triplane.dev/weight': '3' },
      },
      {
        addresses: [
          { type: 'Hostname', address: 'worker-1' },
          { type: 'ExternalIP', address: '203.0.113.9' },
          { type: 'InternalIP', address: '192.0.2.9' },
          { type: 'InternalIP', address: 'fd00::9' },
        ],
      },
    );
    expect(decodeNode(raw)).toEqual({
      outcome: 'record',
      faults: [],
      record: {
        kind: 'Node',
        name: 'worker-1',
        uid: 'u-1',
        zone: 'eu-1a',
        addresses: ['192.0.2.9', 'fd00::9', '203.0.113.9'],
        podCIDRs: ['10.10.1.0/24', 'fd00:10::/64'],
        deleting: true,
        taints: ['node.cloudprovider.kubernetes.io/uninitialized'],
        settings: { weight: '3' },
      },
    });
  });

  it('keeps what is good beside what is bad', () => {
    const raw = node(
      { podCIDR: '10.10.1.0/24', taints: [{ key: 'a b' }, { key: 'ok' }] },
      { labels: { 'topology.kubernetes.io/zone': 'x y' } },
      {
        addresses: [
          { type: 'InternalIP', address: 'x' },
          { type: 'InternalIP', address: '192.0.2.9' },
        ],
      },
    );
    const decoded = decodeNode(raw);
    expect(decoded).toMatchObject({
      record: { zone: '', addresses: ['192.0.2.9'], podCIDRs: ['10.10.1.0/24'], taints: ['ok'] },
    });
    expect(decoded.outcome === 'record' && decoded.faults.length).toBe(3);
  });

  it.each([['Worker'], ['a_b'], [''], [7], ['a'.repeat(254)]])('refuses the name %j', (name) => {
    expect(decodeNode(node({}, { name }))).toMatchObject({ outcome: 'refused', key: null });
  });
});

describe('decodeServiceCidr', () => {
  it('reads ranges and refuses bad ones alone', () => {
    expect(decodeServiceCidr(serviceCidr(['10.200.1.77/24', 'x', 'fd00:200::/112']))).toMatchObject({
      record: { kind: 'ServiceCIDR', name: 'kubernetes', cidrs: ['10.200.1.0/24', 'fd00:200::/112'] },
      faults: ['spec.cidrs[1] is "x", not a CIDR'],
    });
  });
});
