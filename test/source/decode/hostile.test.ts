import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import type { ClusterRecord, RecordKind } from '../../../src/model/records.ts';
import { show } from '../../../src/source/decode/check.ts';
import { DECODERS, sortObject } from '../../../src/source/decode/object.ts';
import { node, pod, service, serviceCidr, slice } from './objects.ts';

// Properties run many times, and the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

const KINDS = Object.keys(DECODERS) as RecordKind[];
const PRINTABLE = /^[\x20-\x7e]*$/;
const SAFE_NAME = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;

const HOSTILE = [
  '"; flush ruleset; "',
  'a\nb',
  'a\r\nb',
  '\u001b[2J\u001b[31mred',
  'a b',
  'a"b',
  "a'b",
  'a/b',
  '../../etc',
  'a\u0000b',
  '\u202egnp.exe',
  'ａ',
  'A',
  '-a',
  'a-',
  'x'.repeat(10 * 1024 * 1024),
];

/** Every name in a record must be fit for a parser that takes no quoting. */
function namesOf(record: ClusterRecord): string[] {
  if (record.kind === 'Service') {
    return [
      record.namespace,
      record.name,
      ...record.ports.map((port) => port.name).filter((name) => name !== ''),
    ];
  }
  if (record.kind === 'EndpointSlice') {
    const places = record.endpoints.flatMap((endpoint) => [endpoint.nodeName, ...endpoint.nodeHints]);
    const ports = record.ports.map((port) => port.name);
    return [
      record.namespace,
      record.name,
      record.serviceName,
      ...[...places, ...ports].filter((name) => name !== ''),
    ];
  }
  if (record.kind === 'Pod') {
    // A UID is compared with names and becomes part of none.
    expect(record.cgroupUid).toMatch(/^[A-Za-z0-9._:-]{1,128}$/);
    return [record.namespace, record.name, ...(record.nodeName === '' ? [] : [record.nodeName])];
  }
  return [record.name];
}

function expectSound(kind: RecordKind, raw: unknown): void {
  const decoded = DECODERS[kind](raw);
  if (decoded.outcome === 'record') {
    for (const name of namesOf(decoded.record)) expect(name).toMatch(SAFE_NAME);
    for (const fault of decoded.faults) expect(fault).toMatch(PRINTABLE);
    const text = JSON.stringify(decoded.record);
    expect(text).toMatch(PRINTABLE);
  } else if (decoded.outcome === 'refused') {
    expect(decoded.object).toMatch(PRINTABLE);
    expect(decoded.reason).toMatch(PRINTABLE);
    expect(decoded.object.length + decoded.reason.length).toBeLessThan(2_000);
  }
}

describe('hostile strings', () => {
  it.each(HOSTILE.map((text) => [show(text), text]))('refuses %s wherever a name stands', (_shown, text) => {
    const objects: [RecordKind, unknown][] = [
      ['Service', service({}, { name: text })],
      ['Service', service({}, { namespace: text })],
      ['Service', service({ ports: [{ port: 1, name: text }] })],
      ['Service', service({ type: text })],
      ['Service', service({ clusterIP: text })],
      ['EndpointSlice', slice({}, { name: text })],
      ['EndpointSlice', slice({}, { namespace: text })],
      ['EndpointSlice', slice({}, { labels: { 'kubernetes.io/service-name': text } })],
      ['EndpointSlice', slice({ ports: [{ port: 1, name: text }] })],
      ['Node', node({}, { name: text })],
      ['Pod', pod({}, { name: text })],
      ['Pod', pod({}, { namespace: text })],
      ['Pod', pod({ nodeName: text })],
    ];
    for (const [kind, raw] of objects) {
      expect(DECODERS[kind](raw).outcome).toBe('refused');
      expectSound(kind, raw);
    }
  });

  it.each(HOSTILE.map((text) => [show(text), text]))(
    'lets %s through nowhere else either',
    (_shown, text) => {
      const endpoint = {
        addresses: ['10.0.0.1'],
        nodeName: text,
        zone: text,
        hints: { forZones: [{ name: text }], forNodes: [{ name: text }] },
      };
      const annotations = { 'triplane.dev/x': `${text}\n`, [`triplane.dev/${text}\n`]: 'x' };
      expectSound('EndpointSlice', slice({ endpoints: [endpoint] }, { annotations }));
      expectSound(
        'Service',
        service({ externalIPs: [text], loadBalancerSourceRanges: [text] }, { annotations }),
      );
      expectSound('Node', node({ taints: [{ key: text }], podCIDRs: [text] }, { annotations }));
      expectSound('ServiceCIDR', serviceCidr([text]));
      expectSound('Pod', pod({}, { uid: text }));
      expectSound('Pod', pod({}, { labels: { 'triplane.dev/socket-lb': text } }));
      const mirror = { 'kubernetes.io/config.mirror': text, 'kubernetes.io/config.hash': text };
      expectSound('Pod', pod({}, { annotations: mirror }));
    },
  );
});

/** Replaces one random leaf or branch of a good object by anything. */
const good = fc.constantFrom<[RecordKind, unknown]>(
  [
    'Service',
    service(
      { externalIPs: ['192.0.2.1'], type: 'LoadBalancer', sessionAffinity: 'ClientIP' },
      { labels: {}, annotations: {} },
      { loadBalancer: { ingress: [{ ip: '203.0.113.1' }] } },
    ),
  ],
  [
    'EndpointSlice',
    slice({
      endpoints: [
        {
          addresses: ['10.0.0.1'],
          conditions: { ready: true },
          nodeName: 'a',
          hints: { forZones: [{ name: 'a' }] },
        },
      ],
    }),
  ],
  [
    'Node',
    node(
      { podCIDRs: ['10.0.0.0/24'], taints: [{ key: 'a' }] },
      { labels: {} },
      { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
    ),
  ],
  ['ServiceCIDR', serviceCidr(['10.0.0.0/24'])],
  ['Pod', pod({}, {}, { phase: 'Running' })],
  [
    'Pod',
    pod({}, { annotations: { 'kubernetes.io/config.mirror': 'ab', 'kubernetes.io/config.hash': 'ab' } }),
  ],
);

function bend(value: unknown, path: readonly number[], by: unknown): unknown {
  if (path.length === 0 || typeof value !== 'object' || value === null) return by;
  const copy = (Array.isArray(value) ? [...value] : { ...value }) as Record<string, unknown>;
  const names = Object.keys(copy);
  if (names.length === 0) return by;
  const name = names[path[0]! % names.length]!;
  copy[name] = bend(copy[name], path.slice(1), by);
  return copy;
}

describe('decoders of anything', () => {
  const anything = fc.anything({ withNullPrototype: true, withBigInt: true, withDate: true, withMap: true });

  it('never throw', () => {
    fc.assert(fc.property(fc.constantFrom(...KINDS), anything, (kind, raw) => expectSound(kind, raw)));
  });

  it('never let an unsafe name through when one place of a good object is bent', () => {
    const leaf = fc.oneof(
      anything,
      fc.string({ unit: 'binary' }),
      fc.constantFrom(...HOSTILE.slice(0, -1)),
      fc.ipV4(),
      fc.ipV6(),
      fc.integer(),
    );
    const path = fc.array(fc.nat(20), { maxLength: 6 });
    fc.assert(
      fc.property(good, path, leaf, ([kind, raw], where, by) => expectSound(kind, bend(raw, where, by))),
      { numRuns: 2_000 },
    );
  });

  it('sort without throwing', () => {
    fc.assert(fc.property(anything, (raw) => typeof sortObject(raw).is === 'string'));
  });
});

describe('sortObject', () => {
  it.each([
    [
      { apiVersion: 'v1', kind: 'Service' },
      { is: 'object', kind: 'Service' },
    ],
    [{ apiVersion: 'serving.knative.dev/v1', kind: 'Service' }, { is: 'foreign' }],
    [
      { apiVersion: 'serving.knative.dev/v1', kind: 'ServiceList', items: [] },
      { is: 'list', apiVersion: 'serving.knative.dev/v1' },
    ],
    [{ apiVersion: 'apps/v1', kind: 'Deployment' }, { is: 'foreign' }],
    [{ apiVersion: 'v1', kind: 'SecretList' }, { is: 'foreign' }],
    [
      { apiVersion: 'v1', kind: 'PodList' },
      { is: 'list', itemKind: 'Pod', items: [] },
    ],
    [
      { apiVersion: 'v1', kind: 'List' },
      { is: 'list', itemKind: '', items: [] },
    ],
    [
      { apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSliceList', items: [] },
      { is: 'list', itemKind: 'EndpointSlice' },
    ],
    [{ apiVersion: 'discovery.k8s.io/v1beta1', kind: 'EndpointSlice' }, { is: 'nothing' }],
    [{ kind: 'Service' }, { is: 'nothing' }],
    [{ apiVersion: 'v1' }, { is: 'nothing' }],
    [{ apiVersion: 'v1', kind: 'List', items: 7 }, { is: 'nothing' }],
    ['text', { is: 'nothing' }],
    [null, { is: 'nothing' }],
  ])('sorts %j', (raw, expected) => {
    expect(sortObject(raw)).toMatchObject(expected);
  });
});
