import { describe, expect, it } from 'vitest';
import {
  type FlowSide,
  findFrontend,
  leadsAstray,
  mayStrand,
  servingOf,
  staleFlows,
} from '../../src/model/conntrack.ts';
import type { EndpointRecord, ServiceRecord } from '../../src/model/records.ts';
import { computeService, type NodeContext } from '../../src/model/service.ts';
import { endpoint, FACTS, ip, NOT_READY, service, slice, TERMINATING, THIS } from './world.ts';

const NODE: NodeContext = { ...FACTS, name: THIS, zone: 'east', masqueradeAll: false };

const dns = (over: Partial<ServiceRecord> = {}) =>
  service({ ports: [{ name: 'dns', protocol: 'UDP', port: 53, nodePort: 0 }], ...over });

function side(
  record: ServiceRecord,
  endpoints: readonly (string | EndpointRecord)[],
  targetPort = 5300,
): FlowSide | undefined {
  const { protocol, name } = record.ports[0]!;
  const slices =
    endpoints.length > 0 ? [slice(endpoints, { ports: [{ name, protocol, port: targetPort }] })] : [];
  const { desired, serving } = computeService(record, slices, NODE);
  return desired ? { desired, serving } : undefined;
}

const inWords = (previous: FlowSide | undefined, next: FlowSide | undefined) =>
  staleFlows(previous, next).map(({ address, port, backend, backendPort }) =>
    backend === null ? `${address} ${port} untranslated` : `${address} ${port} -> ${backend} ${backendPort}`,
  );

const VIP = '10.200.1.10 53';
const ONE = ['10.10.1.1'];
const TWO = ['10.10.1.1', '10.10.2.2'];

describe('stale UDP flows', () => {
  const rows: [name: string, previous: FlowSide | undefined, next: FlowSide | undefined, stale: string[]][] =
    [
      ['nothing changes', side(dns(), TWO), side(dns(), TWO), []],
      ['a backend comes', side(dns(), ONE), side(dns(), TWO), []],
      ['a backend goes', side(dns(), TWO), side(dns(), ONE), [`${VIP} -> 10.10.2.2 5300`]],
      ['N to 0', side(dns(), TWO), side(dns(), []), [`${VIP} -> 10.10.1.1 5300`, `${VIP} -> 10.10.2.2 5300`]],
      ['0 to N', side(dns(), []), side(dns(), TWO), [`${VIP} untranslated`]],
      ['all replaced', side(dns(), ['10.10.2.2']), side(dns(), ONE), [`${VIP} -> 10.10.2.2 5300`]],
      [
        'the target port changes',
        side(dns(), ONE, 5300),
        side(dns(), ONE, 5301),
        [`${VIP} -> 10.10.1.1 5300`],
      ],
      [
        'a backend is terminating but serves',
        side(dns(), TWO),
        side(dns(), [...ONE, endpoint('10.10.2.2', TERMINATING)]),
        [],
      ],
      [
        'a terminating backend stops serving',
        side(dns(), [...ONE, endpoint('10.10.2.2', TERMINATING)]),
        side(dns(), ONE),
        [`${VIP} -> 10.10.2.2 5300`],
      ],
      [
        'a backend is not ready any more',
        side(dns(), TWO),
        side(dns(), [...ONE, endpoint('10.10.2.2', NOT_READY)]),
        [`${VIP} -> 10.10.2.2 5300`],
      ],
      ['a policy turns to Local', side(dns(), TWO), side(dns({ internalPolicy: 'Local' }), TWO), []],
      [
        'Local gets its first local backend',
        side(dns({ internalPolicy: 'Local' }), ['10.10.2.2']),
        side(dns({ internalPolicy: 'Local' }), TWO),
        [`${VIP} untranslated`],
      ],
      ['the service comes with backends', undefined, side(dns(), ONE), [`${VIP} untranslated`]],
      ['the service comes without backends', undefined, side(dns(), []), []],
      ['the service goes', side(dns(), ONE), undefined, [`${VIP} -> 10.10.1.1 5300`]],
      ['the service goes without backends', side(dns(), []), undefined, []],
      [
        'a frontend comes',
        side(dns(), ONE),
        side(dns({ externalIPs: [ip('198.18.1.1')] }), ONE),
        ['198.18.1.1 53 untranslated'],
      ],
      [
        'a frontend goes',
        side(dns({ externalIPs: [ip('198.18.1.1')] }), ONE),
        side(dns(), ONE),
        ['198.18.1.1 53 -> 10.10.1.1 5300'],
      ],
      [
        'a backend goes behind every kind of frontend',
        side(exposedDns(), TWO),
        side(exposedDns(), ONE),
        [
          `${VIP} -> 10.10.2.2 5300`,
          '198.18.1.1 53 -> 10.10.2.2 5300',
          '198.18.0.1 53 -> 10.10.2.2 5300',
          '192.0.2.11 30053 -> 10.10.2.2 5300',
        ],
      ],
      [
        'a backend goes behind IPv6',
        side(dns({ clusterIPs: [ip('fd00:10:200::10')] }), ['fd00:10:10:1::1', 'fd00:10:10:2::2']),
        side(dns({ clusterIPs: [ip('fd00:10:200::10')] }), ['fd00:10:10:1::1']),
        ['fd00:10:200::10 53 -> fd00:10:10:2::2 5300'],
      ],
      [
        'the port is renamed and serves the same',
        side(dns(), ONE),
        side(dns({ ports: [{ name: 'new', protocol: 'UDP', port: 53, nodePort: 0 }] }), ONE),
        [],
      ],
      [
        'the service port moves',
        side(dns(), ONE),
        side(dns({ ports: [{ name: 'dns', protocol: 'UDP', port: 54, nodePort: 0 }] }), ONE),
        [`${VIP} -> 10.10.1.1 5300`, '10.200.1.10 54 untranslated'],
      ],
      ['TCP is none of it', side(service(), TWO), side(service(), []), []],
      ['SCTP is none of it', side(sctp(), TWO), undefined, []],
    ];
  it.each(rows)('%s', (_name, previous, next, stale) => {
    expect(inWords(previous, next)).toEqual(stale);
  });
});

describe('unanswered TCP flows', () => {
  const web = (over: Partial<ServiceRecord> = {}) => service(over);
  const of = (endpoints: readonly (string | EndpointRecord)[], over: Partial<ServiceRecord> = {}) =>
    side(web(over), endpoints, 80);
  const rows: [name: string, previous: FlowSide | undefined, next: FlowSide | undefined, strands: boolean][] =
    [
      ['nothing changes', of(TWO), of(TWO), false],
      ['a backend comes', of(ONE), of(TWO), false],
      ['a backend comes in front', of(['10.10.2.2']), of(TWO), false],
      ['a backend goes', of(TWO), of(ONE), true],
      ['the first backend goes', of(TWO), of(['10.10.2.2']), true],
      ['a backend in the middle goes', of([...TWO, '10.10.3.3']), of(['10.10.1.1', '10.10.3.3']), true],
      ['all are replaced', of(['10.10.2.2']), of(ONE), true],
      ['the last goes', of(ONE), of([]), true],
      ['the first comes', of([]), of(ONE), true],
      ['one is terminating but serves', of(TWO), of([...ONE, endpoint('10.10.2.2', TERMINATING)]), false],
      ['the service comes', undefined, of(ONE), true],
      ['the service goes', of(ONE), undefined, true],
      ['it has no backend and goes', of([]), undefined, false],
      ['UDP is another matter', side(dns(), TWO), side(dns(), []), false],
      ['SCTP is none of it', side(sctp(), TWO), undefined, false],
    ];
  it.each(rows)('%s', (_name, previous, next, strands) => {
    expect(mayStrand(previous, next)).toBe(strands);
    expect(staleFlows(previous, next).filter(({ protocol }) => protocol === 'TCP')).toEqual([]);
  });

  const WEB = { address: ip('10.200.1.10'), port: service().ports[0]!.port };
  const at = (text: string, port = 80) => ({ address: ip(text), port });
  it.each<[string, FlowSide, ReturnType<typeof at>, boolean]>([
    ['a backend', of(TWO)!, at('10.10.2.2'), false],
    ['a backend that is gone', of(ONE)!, at('10.10.2.2'), true],
    ['another port of a backend', of(ONE)!, at('10.10.1.1', 81), true],
    ['a backend that is terminating', of([endpoint('10.10.1.1', TERMINATING)])!, at('10.10.1.1'), false],
    ['untranslated, with backends', of(ONE)!, WEB, true],
    ['untranslated, without', of([])!, WEB, false],
    ['a backend, without any', of([])!, at('10.10.1.1'), true],
  ])('leads astray: %s', (_name, { desired, serving }, answers, astray) => {
    const [frontend, port] = findFrontend(desired.ports, WEB)!;
    expect(leadsAstray(frontend, port, servingOf(serving, port), answers)).toBe(astray);
  });
});

function exposedDns(): ServiceRecord {
  return dns({
    type: 'LoadBalancer',
    externalIPs: [ip('198.18.1.1')],
    loadBalancerIPs: [ip('198.18.0.1')],
    ports: [{ name: 'dns', protocol: 'UDP', port: 53, nodePort: 30053 }],
  });
}

function sctp(): ServiceRecord {
  return service({ ports: [{ name: '', protocol: 'SCTP', port: 53, nodePort: 0 }] });
}
