import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DesiredPort } from '../../src/model/desired.ts';
import type { ServiceRecord, SliceRecord } from '../../src/model/records.ts';
import { computeService, type NodeContext } from '../../src/model/service.ts';
import { arbitraryService, arbitrarySlice } from './arbitrary.ts';
import { DEAD, endpoint, FACTS, ip, NOT_READY, net, service, slice, TERMINATING, THIS } from './world.ts';

const NODE: NodeContext = { ...FACTS, name: THIS, zone: 'east', masqueradeAll: false };

function firstPort(record: ServiceRecord, ...slices: SliceRecord[]): DesiredPort {
  return computeService(record, slices, NODE).desired!.ports[0]!;
}

const texts = (backends: DesiredPort['cluster']) => backends.map(({ address, port }) => `${address} ${port}`);

describe('pools', () => {
  it('are sorted by address bytes, then port, and say what is local', () => {
    const port = firstPort(
      service(),
      slice(['10.10.2.10', '10.10.2.9', '10.10.1.1']),
      slice(['10.10.2.9'], { name: 'web-0', ports: [{ name: '', protocol: 'TCP', port: 9 }] }),
    );
    expect(texts(port.cluster)).toEqual(['10.10.1.1 80', '10.10.2.9 9', '10.10.2.9 80', '10.10.2.10 80']);
    expect(port.cluster.map((backend) => backend.local)).toEqual([true, false, false, false]);
  });

  it('are sorted by address bytes in IPv6, where text would sort otherwise', () => {
    const record = service({ clusterIPs: [ip('fd00:10:200::10')] });
    const port = firstPort(record, slice(['fd00:10:10:2::10', 'fd00:10:10:2::9', 'fd00:10:10:2::a']));
    expect(texts(port.cluster)).toEqual(['fd00:10:10:2::9 80', 'fd00:10:10:2::a 80', 'fd00:10:10:2::10 80']);
  });

  it('are stored once when they say the same', () => {
    const port = firstPort(
      service({ externalIPs: [ip('198.18.1.1')], externalPolicy: 'Local' }),
      slice(['10.10.1.1']),
    );
    expect(port.local).toHaveLength(1);
    expect(port.local).toBe(port.cluster);
  });

  it('are empty when no frontend refers to them', () => {
    const both = slice(['10.10.1.1', '10.10.2.2']);
    expect(firstPort(service(), both).local).toEqual([]);
    expect(firstPort(service({ internalPolicy: 'Local' }), both).cluster).toEqual([]);
    // A NodePort without an address to listen on is no frontend.
    const nodePort = service({
      type: 'NodePort',
      internalPolicy: 'Local',
      ports: [{ name: '', protocol: 'TCP', port: 80, nodePort: 30000 }],
    });
    const { desired } = computeService(nodePort, [both], { ...NODE, nodePortAddresses: [] });
    expect(desired!.ports[0]).toMatchObject({ cluster: [], local: [{ address: '10.10.1.1' }] });
  });
});

describe('ports', () => {
  it('are one for each port and family, named after the service and the port', () => {
    const record = service({
      clusterIPs: [ip('fd00:10:200::10'), ip('10.200.1.10')],
      affinitySeconds: 60,
      settings: { scheduler: 'lc' },
      ports: [
        { name: 'http', protocol: 'TCP', port: 80, nodePort: 0 },
        { name: 'dns', protocol: 'UDP', port: 53, nodePort: 0 },
      ],
    });
    const { desired } = computeService(record, [], NODE);
    expect(desired!.key).toBe('default/web');
    expect(desired!.ports).toMatchObject([
      {
        name: 'default/web:http',
        family: 6,
        protocol: 'TCP',
        affinitySeconds: 60,
        settings: { scheduler: 'lc' },
      },
      { name: 'default/web:dns', family: 6, protocol: 'UDP' },
      { name: 'default/web:http', family: 4, protocol: 'TCP' },
      { name: 'default/web:dns', family: 4, protocol: 'UDP' },
    ]);
  });

  it('have the bare name of the service when unnamed', () => {
    expect(firstPort(service()).name).toBe('default/web');
  });

  it('of a service without ports are nothing', () => {
    expect(computeService(service({ ports: [] }), [], NODE).desired).toBeNull();
  });
});

describe('frontends', () => {
  it('are one NodePort for each address, without loopback, duplicates or the other family', () => {
    const record = service({
      type: 'NodePort',
      ports: [{ name: '', protocol: 'TCP', port: 80, nodePort: 30000 }],
    });
    const nodePortAddresses = ['127.0.0.1', '192.0.2.11', '192.0.2.11', '2001:db8::11', '10.0.0.5'].map(ip);
    const { desired } = computeService(record, [], { ...NODE, nodePortAddresses });
    expect(
      desired!.ports[0]!.frontends.map(({ kind, address, port }) => `${kind} ${address} ${port}`),
    ).toEqual(['ClusterIP 10.200.1.10 80', 'NodePort 192.0.2.11 30000', 'NodePort 10.0.0.5 30000']);
  });

  it('carry merged source ranges on load-balancer addresses only, shared between ports', () => {
    const record = service({
      type: 'LoadBalancer',
      externalIPs: [ip('198.18.1.1')],
      loadBalancerIPs: [ip('198.18.0.1'), ip('2001:db8:18::1')],
      sourceRanges: ['203.0.113.0/24', '203.0.113.8/29', '192.0.2.0/24', '2001:db8:f::/48'].map(net),
      ports: [
        { name: 'a', protocol: 'TCP', port: 80, nodePort: 30000 },
        { name: 'b', protocol: 'TCP', port: 81, nodePort: 30001 },
      ],
    });
    const { ports } = computeService(record, [], NODE).desired!;
    const ranges = ports.map((port) => port.frontends.map(({ kind, sourceRanges }) => [kind, sourceRanges]));
    // This node is within 192.0.2.0/24, so the load-balancer address may be the source.
    const merged = ['192.0.2.0/24', '198.18.0.1/32', '203.0.113.0/24'];
    const expected = [
      ['ClusterIP', null],
      ['ExternalIP', null],
      ['LoadBalancer', merged],
      ['NodePort', null],
    ];
    expect(ranges).toEqual([expected, expected]);
    expect(ranges[0]![2]![1]).toBe(ranges[1]![2]![1]);
  });

  it('that two ports of a service claim go to the explicit address, else to the earlier port', () => {
    const record = service({
      type: 'NodePort',
      externalIPs: [ip('192.0.2.11')],
      ports: [
        { name: 'a', protocol: 'TCP', port: 80, nodePort: 30000 },
        { name: 'b', protocol: 'TCP', port: 30000, nodePort: 0 },
        { name: 'c', protocol: 'TCP', port: 80, nodePort: 0 },
      ],
    });
    const result = computeService(record, [], NODE);
    const kept = result.desired!.ports.map(({ name, frontends }) => [name, ...frontends.map((f) => f.kind)]);
    expect(kept).toEqual([
      ['default/web:a', 'ClusterIP', 'ExternalIP'],
      ['default/web:b', 'ClusterIP', 'ExternalIP'],
    ]);
    expect(result.shadowed.map(({ frontend, by }) => `${frontend.kind} to ${by}`)).toEqual([
      'NodePort to default/web:b',
      'ClusterIP to default/web:a',
      'ExternalIP to default/web:a',
    ]);
  });
});

describe('duplicates of an endpoint', () => {
  const one = (...records: SliceRecord['endpoints']) =>
    firstPort(service(), slice(records.slice(0, 1)), slice(records.slice(1), { name: 'web-9' }));
  const rows: [name: string, first: object, second: object, usable: boolean][] = [
    ['running, then terminating: running', {}, DEAD, true],
    ['terminating, then running: running', DEAD, {}, true],
    ['ready, then not ready: the later', {}, NOT_READY, false],
    ['not ready, then ready: the later', NOT_READY, {}, true],
    ['both terminating: the earlier (serves)', TERMINATING, DEAD, true],
    ['both terminating: the earlier (does not)', DEAD, TERMINATING, false],
  ];
  it.each(rows)('%s', (_name, first, second, usable) => {
    const port = one(endpoint('10.10.2.2', first), endpoint('10.10.2.2', second));
    expect(port.cluster).toHaveLength(usable ? 1 : 0);
  });
});

describe('health', () => {
  const lb = (over: Partial<ServiceRecord> = {}) =>
    service({
      type: 'LoadBalancer',
      externalPolicy: 'Local',
      healthCheckNodePort: 32000,
      ports: [
        { name: 'a', protocol: 'TCP', port: 80, nodePort: 30000 },
        { name: 'b', protocol: 'TCP', port: 81, nodePort: 30001 },
      ],
      ...over,
    });
  const ports = [
    { name: 'a', protocol: 'TCP', port: 8080 },
    { name: 'b', protocol: 'TCP', port: 8081 },
  ] as const;
  const slices = [
    slice(
      [
        '10.10.1.1',
        '10.10.1.2',
        '10.10.2.2',
        endpoint('10.10.1.3', TERMINATING),
        endpoint('10.10.1.4', NOT_READY),
      ],
      { ports },
    ),
    slice(['10.10.1.1'], { name: 'web-b', ports }),
    slice(['fd00:10:10:1::1'], { ports }),
  ];

  it('counts distinct ready addresses on this node, by family', () => {
    expect(computeService(lb(), slices, NODE).health).toEqual({
      healthCheckNodePort: 32000,
      localReady: { 4: 2, 6: 1 },
    });
  });

  it.each([
    ['another type', lb({ type: 'NodePort' })],
    ['policy Cluster', lb({ externalPolicy: 'Cluster' })],
    ['no port', lb({ healthCheckNodePort: 0 })],
  ])('there is none with %s', (_name, record) => {
    expect(computeService(record, slices, NODE).health.healthCheckNodePort).toBe(0);
  });
});

describe('what serves', () => {
  it('is kept for TCP and UDP ports, whatever pools, hints and terminations say', () => {
    const record = service({
      ports: [
        { name: 't', protocol: 'TCP', port: 53, nodePort: 0 },
        { name: 'u', protocol: 'UDP', port: 53, nodePort: 0 },
        { name: 's', protocol: 'SCTP', port: 53, nodePort: 0 },
      ],
    });
    const ports = [
      { name: 't', protocol: 'TCP', port: 53 },
      { name: 'u', protocol: 'UDP', port: 53 },
      { name: 's', protocol: 'SCTP', port: 53 },
    ] as const;
    const endpoints = [
      endpoint('10.10.1.1', { zoneHints: ['west'] }),
      endpoint('10.10.2.2', { zoneHints: ['east'] }),
      endpoint('10.10.2.3', TERMINATING),
      endpoint('10.10.2.4', DEAD),
    ];
    const { desired, serving } = computeService(record, [slice(endpoints, { ports })], NODE);
    expect(texts(desired!.ports[1]!.cluster)).toEqual(['10.10.2.2 53']);
    expect(serving.map(({ name, family, protocol }) => `${name} ${family} ${protocol}`)).toEqual([
      'default/web:t 4 TCP',
      'default/web:u 4 UDP',
    ]);
    for (const { backends } of serving)
      expect(texts(backends)).toEqual(['10.10.1.1 53', '10.10.2.2 53', '10.10.2.3 53']);
  });
});

describe('computeService', () => {
  const compute = (record: ServiceRecord, slices: readonly SliceRecord[]) =>
    computeService(record, slices, NODE);

  it('does not depend on the order of slices', () => {
    fc.assert(
      fc.property(
        arbitraryService,
        fc.uniqueArray(arbitrarySlice, { selector: (one) => one.name, maxLength: 4 }),
        (record, slices) => {
          expect(compute(record, [...slices].reverse())).toEqual(compute(record, slices));
        },
      ),
    );
  });

  it('does not depend on the order of slices that give one address several times', () => {
    const conditions = fc.record({ ready: fc.boolean(), serving: fc.boolean(), terminating: fc.boolean() });
    const oneSlice = fc.array(conditions, { minLength: 1, maxLength: 2 });
    fc.assert(
      fc.property(fc.array(oneSlice, { maxLength: 4 }), (lists) => {
        const slices = lists.map((list, at) =>
          slice(
            list.map((one) => endpoint('10.10.1.1', one)),
            { name: `web-${at}` },
          ),
        );
        expect(compute(service(), [...slices].reverse())).toEqual(compute(service(), slices));
      }),
    );
  });

  it('keeps the promises of the types', () => {
    fc.assert(
      fc.property(arbitraryService, fc.array(arbitrarySlice, { maxLength: 4 }), (record, slices) => {
        const { desired } = compute(record, slices);
        for (const port of desired?.ports ?? []) {
          expect(port.frontends.length).toBeGreaterThan(0);
          const answers = new Set(port.frontends.flatMap(({ inside, outside }) => [inside, outside]));
          for (const pool of ['cluster', 'local'] as const) {
            expect(port[pool].length > 0).toBe(answers.has(pool));
            expect(new Set(texts(port[pool])).size).toBe(port[pool].length);
          }
          for (const frontend of port.frontends) {
            if (frontend.kind === 'ClusterIP') expect(frontend.inside).toBe(frontend.outside);
            if (frontend.sourceRanges) expect(frontend.kind).toBe('LoadBalancer');
            expect(frontend.protocol).toBe(port.protocol);
          }
          for (const backend of port.local) expect(backend.local).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });
});
