import { describe, expect, it } from 'vitest';
import { decodeService } from '../../../src/source/decode/service.ts';
import { service } from './objects.ts';

function recordOf(raw: unknown) {
  const decoded = decodeService(raw);
  if (decoded.outcome !== 'record') throw new Error(JSON.stringify(decoded));
  return decoded;
}

describe('decodeService', () => {
  it('fills in what a manifest written by hand leaves out', () => {
    const raw = { metadata: { name: 'web' }, spec: { clusterIP: '10.200.1.1', ports: [{ port: 80 }] } };
    expect(recordOf(raw)).toEqual({
      outcome: 'record',
      faults: [],
      record: {
        kind: 'Service',
        namespace: 'default',
        name: 'web',
        uid: '',
        createdMs: 0,
        type: 'ClusterIP',
        clusterIPs: ['10.200.1.1'],
        externalIPs: [],
        loadBalancerIPs: [],
        sourceRanges: [],
        ports: [{ name: '', protocol: 'TCP', port: 80, nodePort: 0 }],
        externalPolicy: 'Cluster',
        internalPolicy: 'Cluster',
        affinitySeconds: 0,
        healthCheckNodePort: 0,
        settings: {},
      },
    });
  });

  it('reads everything that a full object has', () => {
    const raw = service(
      {
        type: 'LoadBalancer',
        clusterIPs: ['10.200.001.001', 'FD00:0:0:0::1'],
        externalIPs: ['192.0.2.7', '', '192.0.2.7'],
        loadBalancerSourceRanges: [' 198.51.100.7/24 ', '2001:db8::/32'],
        externalTrafficPolicy: 'Local',
        internalTrafficPolicy: 'Local',
        sessionAffinity: 'ClientIP',
        sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } },
        healthCheckNodePort: 30999,
        ports: [
          { name: 'http', port: 80, nodePort: 30080, targetPort: 'http' },
          { name: 'dns', port: 53, protocol: 'UDP' },
        ],
      },
      {
        uid: 'a-b-c',
        creationTimestamp: '2024-01-02T03:04:05Z',
        annotations: { 'triplane.dev/scheduler': 'wrr', other: 'x' },
      },
      {
        loadBalancer: {
          ingress: [
            { ip: '203.0.113.1' },
            { ip: '203.0.113.2', ipMode: 'Proxy' },
            { ip: '203.0.113.3', ipMode: 'VIP' },
            { hostname: 'lb.example' },
          ],
        },
      },
    );
    const { record, faults } = recordOf(raw);
    expect(faults).toEqual([]);
    expect(record).toMatchObject({
      uid: 'a-b-c',
      createdMs: Date.UTC(2024, 0, 2, 3, 4, 5),
      clusterIPs: ['10.200.1.1', 'fd00::1'],
      externalIPs: ['192.0.2.7'],
      loadBalancerIPs: ['203.0.113.1', '203.0.113.3'],
      sourceRanges: ['198.51.100.0/24', '2001:db8::/32'],
      externalPolicy: 'Local',
      internalPolicy: 'Local',
      affinitySeconds: 60,
      healthCheckNodePort: 30999,
      settings: { scheduler: 'wrr' },
    });
    expect(record.ports).toEqual([
      { name: 'http', protocol: 'TCP', port: 80, nodePort: 30080 },
      { name: 'dns', protocol: 'UDP', port: 53, nodePort: 0 },
    ]);
  });

  it.each([
    ['a proxy name label', service({}, { labels: { 'service.kubernetes.io/service-proxy-name': '' } })],
    ['clusterIP None', service({ clusterIP: 'None' })],
    ['clusterIPs None', service({ clusterIP: '', clusterIPs: ['None'] })],
    ['ExternalName', service({ type: 'ExternalName', clusterIP: undefined, externalName: 'a.example' })],
  ])('ignores %s in silence', (_what, raw) => {
    expect(decodeService(raw)).toEqual({ outcome: 'ignored', kind: 'Service', key: 'default/web' });
  });

  it.each([
    ['no clusterIP', service({ clusterIP: undefined }), /^spec\.clusterIP is missing/],
    ['no spec', { metadata: { name: 'web' } }, /^spec\.clusterIP is missing/],
    ['a spec that is a list', { metadata: { name: 'web' }, spec: [] }, /^spec is a list, not an object/],
    ['a bad clusterIP', service({ clusterIP: '10.0.0.256' }), /^spec\.clusterIP is "10\.0\.0\.256"/],
    ['loopback as clusterIP', service({ clusterIP: '127.0.0.1' }), /loopback addresses are refused/],
    ['two clusterIPs of one family', service({ clusterIPs: ['10.0.0.1', '10.0.0.2'] }), /one family/],
    ['three clusterIPs', service({ clusterIPs: ['10.0.0.1', 'fd00::1', '10.0.0.2'] }), /3 entries/],
    ['clusterIP beside clusterIPs', service({ clusterIPs: ['10.0.0.2'] }), /differs/],
    ['port 0', service({ ports: [{ port: 0 }] }), /^spec\.ports\[0\]\.port is 0, not an integer/],
    ['port 65536', service({ ports: [{ port: 65536 }] }), /is 65536/],
    ['port 80.5', service({ ports: [{ port: 80.5 }] }), /is 80\.5/],
    ['port "80"', service({ ports: [{ port: '80' }] }), /is "80"/],
    ['port NaN', service({ ports: [{ port: Number.NaN }] }), /is NaN/],
    ['no port', service({ ports: [{ name: 'x' }] }), /port is missing/],
    ['a negative nodePort', service({ ports: [{ port: 1, nodePort: -1 }] }), /nodePort is -1/],
    ['protocol ICMP', service({ ports: [{ port: 1, protocol: 'ICMP' }] }), /not TCP, UDP, SCTP/],
    ['ports as an object', service({ ports: { port: 1 } }), /^spec\.ports is an object, not a list/],
    ['a bad port name', service({ ports: [{ port: 1, name: 'a"b' }] }), /name is "a\\"b"/],
    ['nameless ports', service({ ports: [{ port: 1 }, { port: 2, name: 'b' }] }), /needs a name/],
    [
      'a name twice',
      service({
        ports: [
          { port: 1, name: 'a' },
          { port: 2, name: 'a' },
        ],
      }),
      /occurs twice/,
    ],
    [
      'a port twice',
      service({
        ports: [
          { port: 1, name: 'a' },
          { port: 1, name: 'b' },
        ],
      }),
      /repeats port 1\/TCP/,
    ],
    ['a bad type', service({ type: 'Anycast' }), /^spec\.type is "Anycast"/],
    ['a bad policy', service({ internalTrafficPolicy: 'Zone' }), /internalTrafficPolicy is "Zone"/],
    ['affinity by cookie', service({ sessionAffinity: 'Cookie' }), /sessionAffinity is "Cookie"/],
    [
      'affinity of 0 s',
      service({ sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 0 } } }),
      /timeoutSeconds is 0/,
    ],
    ['a bad time', service({}, { creationTimestamp: 'yesterday' }), /creationTimestamp is "yesterday"/],
    ['a bad uid', service({}, { uid: 'a b' }), /uid is "a b"/],
  ])('refuses %s alone, naming the field', (_what, raw, reason) => {
    expect(decodeService(raw)).toMatchObject({
      outcome: 'refused',
      key: 'default/web',
      object: 'Service default/web',
      reason: expect.stringMatching(reason),
    });
  });

  it.each([
    [
      'externalIPs',
      { externalIPs: ['192.0.2.1', 'x', '127.0.0.1', '169.254.169.254', '224.0.0.1', '::'] },
      5,
    ],
    ['externalIPs of odd types', { externalIPs: ['192.0.2.1', 7, null, {}, ['192.0.2.2']] }, 4],
  ])('refuses bad entries of %s and keeps the others', (_what, spec, refused) => {
    const { record, faults } = recordOf(service(spec));
    expect(record.externalIPs).toEqual(['192.0.2.1']);
    expect(faults).toHaveLength(refused);
  });

  it('refuses bad ingress entries and keeps the others', () => {
    const ingress = [{ ip: 'x' }, 'x', { ip: '203.0.113.1' }, { ip: '0.0.0.0' }];
    const { record, faults } = recordOf(service({}, {}, { loadBalancer: { ingress } }));
    expect(record.loadBalancerIPs).toEqual(['203.0.113.1']);
    expect(faults).toHaveLength(3);
  });

  it.each([
    ['all good', ['10.0.0.0/8'], ['10.0.0.0/8']],
    ['one bad of two', ['10.0.0.0/8', 'x'], ['10.0.0.0/8', '::/128']],
    ['all bad', ['x', '10.0.0.0/33'], ['0.0.0.0/32', '::/128']],
    ['empty ones, which say nothing', ['', ' '], []],
    ['an empty one beside a good one', ['', '10.0.0.0/8'], ['10.0.0.0/8']],
    ['an empty one beside a bad one', ['', 'x'], ['0.0.0.0/32', '::/128']],
    ['an address', ['10.0.0.1'], ['0.0.0.0/32', '::/128']],
    ['the IPv4 ones bad', ['10.0.0.0/99', 'fd00::/8'], ['fd00::/8', '0.0.0.0/32']],
  ])('never opens a service because of its source ranges: %s', (_what, ranges, expected) => {
    expect(recordOf(service({ loadBalancerSourceRanges: ranges })).record.sourceRanges).toEqual(expected);
  });

  it.each([
    ['ClusterIP', {}, 'Cluster', 0],
    ['ClusterIP with external IPs', { externalIPs: ['192.0.2.1'] }, 'Local', 0],
    ['NodePort', { type: 'NodePort' }, 'Local', 0],
    ['LoadBalancer', { type: 'LoadBalancer' }, 'Local', 31000],
  ])('counts externalTrafficPolicy where there is external traffic: %s', (_what, spec, policy, health) => {
    const { record } = recordOf(
      service({ externalTrafficPolicy: 'Local', healthCheckNodePort: 31000, ...spec }),
    );
    expect(record.externalPolicy).toBe(policy);
    expect(record.healthCheckNodePort).toBe(health);
  });

  it('takes the node ports off a service that has become a ClusterIP one', () => {
    const { record, faults } = recordOf(service({ ports: [{ port: 1, nodePort: 30000 }] }));
    expect(record.ports[0]!.nodePort).toBe(0);
    expect(faults).toEqual([expect.stringMatching(/nodePort 30000 does not count/)]);
  });

  it('takes the affinity timeout of the API server when none is given', () => {
    expect(recordOf(service({ sessionAffinity: 'ClientIP' })).record.affinitySeconds).toBe(10_800);
  });

  it('refuses settings that are no plain text, and keeps the service', () => {
    const annotations = { 'triplane.dev/a': 'x\ny', 'triplane.dev/__proto__': 'x', 'triplane.dev/b': 'ok' };
    const { record, faults } = recordOf(service({}, { annotations }));
    expect(record.settings).toEqual({ b: 'ok' });
    expect(faults).toHaveLength(2);
  });
});
