/**
 * One client port used at a time toward a service and toward the backend that it gets there: in one order and in the
 * other, each connection goes to its own end and nothing is taken for a part of the other.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { kernelOffersConntrack } from '../../src/dataplane/ebpf/native.ts';
import { ip, modelOf, NODE_ADDRESSES, service, slice } from '../model/world.ts';
import { snapshot } from '../support/desired.ts';
import { type FlowOutcome, missingForFlows } from '../support/flow-engine.ts';
import type { HostFlow } from '../support/flow-world.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { EbpfSubject, NftSubject, type Subject } from './fuzz/subjects.ts';

const root = skipUnless(
  privilege() === 'root' && missingForFlows === null,
  missingForFlows ?? "needs the machine's root",
);
const ONE_FAMILY = {
  4: {
    clusterIPs: ['10.200.1.10'],
    other: '10.200.1.11',
    backend: '10.10.2.2',
    node: '192.0.2.11',
    pod: '10.10.1.99',
  },
  6: {
    clusterIPs: ['fd00:10:200::10'],
    other: 'fd00:10:200::11',
    backend: 'fd00:10:10:2::2',
    node: '2001:db8::11',
    pod: 'fd00:10:10:1::99',
  },
} as const;
const PORTS = [
  { name: '', protocol: 'TCP', port: 9000, nodePort: 30000 },
  { name: 'u', protocol: 'UDP', port: 9000, nodePort: 30000 },
] as const;
const TARGETS = PORTS.map(({ name, protocol }) => ({ name, protocol, port: 8080 }));

const MODES: Record<string, () => Promise<Subject>> = {
  nft: () => NftSubject.create(),
  'ebpf, by packets': () => EbpfSubject.create('off'),
  // What is direct is a socket that was translated as well.
  'ebpf, by sockets and packets': () => EbpfSubject.create('all'),
};

for (const [mode, create] of Object.entries(MODES))
  root.describe(`${mode}: one client port`, () => {
    let subject: Subject;
    let port = 5000;

    beforeAll(async () => {
      subject = await create();
      const records = ([4, 6] as const).flatMap((family) => {
        const { clusterIPs, other, backend } = ONE_FAMILY[family];
        const of = (name: string, more: object) => [
          service({ name, ports: PORTS, ...more }),
          slice([backend], { serviceName: name, name: `${name}-1`, family, ports: TARGETS }),
        ];
        return [
          ...of(`web${family}`, { type: 'NodePort', clusterIPs: clusterIPs.map(ip) }),
          ...of(`other${family}`, { clusterIPs: [ip(other)] }),
        ];
      });
      const facts = { nodePortAddresses: NODE_ADDRESSES, nodeAddresses: NODE_ADDRESSES };
      expect(await subject.start(snapshot(modelOf(records, {}, facts).state))).toEqual([]);
    });
    afterAll(() => subject?.remove());

    const flow = (
      family: 4 | 6,
      proto: 'tcp' | 'udp',
      dst: string,
      dport: number,
      via: HostFlow['via'],
    ): HostFlow => ({
      ...{ from: 'pod', via, proto, src: ONE_FAMILY[family].pod, sport: port, dst, dport },
      // A SYN that is lost comes again after a second.
      ...{ wait: 10, close: 'fin', connected: true },
    });

    for (const family of [4, 6] as const)
      for (const proto of ['tcp', 'udp'] as const)
        for (const kind of ['cluster IP', 'NodePort'] as const)
          for (const first of ['the service', 'the backend'])
            test(`IPv${family}, ${proto}, ${kind}: first ${first}`, async (context) => {
              const { backend, clusterIPs, node } = ONE_FAMILY[family];
              if (first === 'the backend' && mode !== 'nft' && !kernelOffersConntrack())
                context.skip('this kernel does not show programs its connection tracking (6.0 does)');
              port++;
              const served =
                kind === 'NodePort'
                  ? flow(family, proto, node, 30000, 'packet')
                  : flow(family, proto, clusterIPs[0], 9000, 'packet');
              const direct =
                mode === 'ebpf, by sockets and packets'
                  ? flow(family, proto, clusterIPs[0], 9000, 'socket')
                  : flow(family, proto, backend, 8080, 'packet');
              const flows = first === 'the service' ? [served, direct] : [direct, served];
              // Sockets and packets are sent by two processes, of which neither waits for the other: what both begin in one
              // moment is in no order, and no table has either yet. So one after the other there.
              const outcomes: FlowOutcome[] = [];
              const turns = mode === 'ebpf, by sockets and packets' ? flows.map((one) => [one]) : [flows];
              for (const turn of turns) outcomes.push(...(await subject.world.run(turn)));
              for (const outcome of outcomes)
                expect(outcome).toMatchObject({ outcome: 'ok', at: `${backend} 8080` });
            });

    for (const family of [4, 6] as const)
      for (const proto of ['tcp', 'udp'] as const)
        test(`IPv${family}, ${proto}: two services of one backend`, async () => {
          const { backend, clusterIPs, other } = ONE_FAMILY[family];
          // Two sockets of one port cannot be connected to one backend: the second is left to packets.
          const via = mode === 'ebpf, by sockets and packets' ? 'socket' : 'packet';
          port++;
          const outcomes = await subject.world.run(
            [clusterIPs[0], other].map((dst) => flow(family, proto, dst, 9000, via)),
          );
          for (const outcome of outcomes)
            expect(outcome).toMatchObject({ outcome: 'ok', at: `${backend} 8080` });
        });
  });
