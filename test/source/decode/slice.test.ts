import { describe, expect, it } from 'vitest';
import { decodeSlice } from '../../../src/source/decode/slice.ts';
import { slice } from './objects.ts';

function recordOf(raw: unknown) {
  const decoded = decodeSlice(raw);
  if (decoded.outcome !== 'record') throw new Error(JSON.stringify(decoded));
  return decoded;
}

const SERVICE_NAME = 'kubernetes.io/service-name';

describe('decodeSlice', () => {
  it('fills in what a manifest leaves out', () => {
    expect(recordOf(slice({ ports: [{ name: null, port: 8080 }] })).record).toEqual({
      kind: 'EndpointSlice',
      namespace: 'default',
      name: 'web-abc12',
      serviceName: 'web',
      family: 4,
      ports: [{ name: '', protocol: 'TCP', port: 8080 }],
      endpoints: [
        {
          address: '10.10.1.2',
          nodeName: '',
          ready: true,
          serving: true,
          terminating: false,
          zone: '',
          zoneHints: [],
          nodeHints: [],
        },
      ],
      triggerMs: 0,
    });
  });

  it('reads everything that a full object has', () => {
    const endpoint = {
      addresses: ['fd00::0:2', 'fd00::3'],
      conditions: { ready: false, serving: true, terminating: true },
      nodeName: 'worker-1.example',
      zone: 'Zone_a',
      hints: { forZones: [{ name: 'a' }, { name: 'b' }], forNodes: [{ name: 'worker-1' }] },
      targetRef: { kind: 'Pod' },
      deprecatedTopology: { x: 'y' },
    };
    const annotations = { 'endpoints.kubernetes.io/last-change-trigger-time': '2024-01-02T03:04:05.678Z' };
    const labels = { [SERVICE_NAME]: 'web' };
    const raw = slice({ addressType: 'IPv6', endpoints: [endpoint] }, { annotations, labels });
    expect(recordOf(raw)).toMatchObject({
      faults: [],
      record: {
        family: 6,
        triggerMs: Date.UTC(2024, 0, 2, 3, 4, 5, 678),
        endpoints: [
          {
            address: 'fd00::2',
            nodeName: 'worker-1.example',
            ready: false,
            serving: true,
            terminating: true,
            zone: 'Zone_a',
            zoneHints: ['a', 'b'],
            nodeHints: ['worker-1'],
          },
        ],
      },
    });
  });

  it.each([
    ['headless', { labels: { [SERVICE_NAME]: 'web', 'service.kubernetes.io/headless': '' } }, {}],
    ['no service label', { labels: {} }, {}],
    ['no labels', { labels: undefined }, {}],
    ['an empty service label', { labels: { [SERVICE_NAME]: '' } }, {}],
    ['FQDN', {}, { addressType: 'FQDN', endpoints: [{ addresses: ['a.example'] }] }],
  ])('ignores %s in silence', (_what, metadata, fields) => {
    expect(decodeSlice(slice(fields, metadata))).toMatchObject({
      outcome: 'ignored',
      key: 'default/web-abc12',
    });
  });

  it.each([
    ['a bad service name', slice({}, { labels: { [SERVICE_NAME]: 'a b' } }), /labels\[.*service-name\]/],
    ['no addressType', slice({ addressType: undefined }), /^addressType is ""/],
    ['port 70000', slice({ ports: [{ port: 70000 }] }), /^ports\[0\]\.port is 70000/],
    ['a bad port name', slice({ ports: [{ port: 1, name: '\n' }] }), /^ports\[0\]\.name is "\\n"/],
    ['endpoints as an object', slice({ endpoints: {} }), /^endpoints is an object/],
  ])('refuses %s alone, naming the field', (_what, raw, reason) => {
    expect(decodeSlice(raw)).toMatchObject({ outcome: 'refused', reason: expect.stringMatching(reason) });
  });

  it.each([
    ['127.0.0.1', 'IPv4'],
    ['127.8.8.8', 'IPv4'],
    ['169.254.169.254', 'IPv4'],
    ['224.0.0.1', 'IPv4'],
    ['239.255.255.255', 'IPv4'],
    ['255.255.255.255', 'IPv4'],
    ['0.0.0.0', 'IPv4'],
    ['0177.0.0.1x', 'IPv4'],
    ['fd00::1', 'IPv4'],
    ['10.0.0.1', 'IPv6'],
    ['::1', 'IPv6'],
    ['::', 'IPv6'],
    ['fe80::1', 'IPv6'],
    ['febf:ffff::1', 'IPv6'],
    ['ff02::1', 'IPv6'],
    ['::ffff:127.0.0.1', 'IPv6'],
    ['::ffff:10.0.0.1', 'IPv6'],
    ['fd00::1%eth0', 'IPv6'],
    ['', 'IPv4'],
    [7, 'IPv4'],
  ])('refuses the endpoint %s of an %s slice and keeps the others', (address, addressType) => {
    const good = addressType === 'IPv4' ? '10.10.1.9' : 'fd00::9';
    const endpoints = [{ addresses: [address] }, { addresses: [good] }];
    const { record, faults } = recordOf(slice({ addressType, endpoints }));
    expect(record.endpoints.map((endpoint) => endpoint.address)).toEqual([good]);
    expect(faults).toHaveLength(1);
    expect(faults[0]).toMatch(/^endpoints\[0\]\.addresses\[0\]/);
  });

  it('reads octets with leading zeros as decimal', () => {
    const { record } = recordOf(slice({ endpoints: [{ addresses: ['010.010.001.002'] }] }));
    expect(record.endpoints[0]!.address).toBe('10.10.1.2');
  });

  it.each([
    ['no addresses', { addresses: [] }],
    ['a string', 'x'],
    ['ready "yes"', { addresses: ['10.0.0.1'], conditions: { ready: 'yes' } }],
  ])('refuses an endpoint with %s and keeps the others', (_what, bad) => {
    const { record, faults } = recordOf(slice({ endpoints: [bad, { addresses: ['10.0.0.9'] }] }));
    expect(record.endpoints.map((endpoint) => endpoint.address)).toEqual(['10.0.0.9']);
    expect(faults).toHaveLength(1);
  });

  it('drops bad places and hints, not the endpoint', () => {
    const bad = {
      addresses: ['10.0.0.1'],
      nodeName: 'A B',
      zone: 'x y',
      hints: { forZones: [{ name: '\u001b' }] },
    };
    const { record, faults } = recordOf(slice({ endpoints: [bad] }));
    expect(record.endpoints[0]).toMatchObject({ nodeName: '', zone: '', zoneHints: [] });
    expect(faults).toHaveLength(3);
  });

  it.each([
    [undefined, true, true, false],
    [{}, true, true, false],
    [{ ready: null, serving: null, terminating: null }, true, true, false],
    [{ ready: false }, false, true, false],
    [{ ready: false, terminating: true }, false, true, true],
    [{ ready: true, serving: false }, true, false, false],
  ])('reads conditions %j as kube-proxy does', (conditions, ready, serving, terminating) => {
    const { record } = recordOf(slice({ endpoints: [{ addresses: ['10.0.0.1'], conditions }] }));
    expect(record.endpoints[0]).toMatchObject({ ready, serving, terminating });
  });

  it.each([[null], [undefined], [0]])('passes over a port of %s', (port) => {
    expect(recordOf(slice({ ports: [{ port }, { name: 'b', port: 81 }] })).record.ports).toEqual([
      { name: 'b', protocol: 'TCP', port: 81 },
    ]);
  });
});
