/** What the node's own processes get at its own addresses in ebpf mode, whichever of them they come from. */
import { expect } from 'vitest';
import { EbpfSubject } from '../conformance/fuzz/subjects.ts';
import { modelOf, NODE_ADDRESSES, service, slice } from '../model/world.ts';
import { snapshot } from '../support/desired.ts';
import { missingForFlows } from '../support/flow-engine.ts';
import type { HostFlow } from '../support/flow-world.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(
  privilege() === 'root' && missingForFlows === null,
  missingForFlows ?? "needs the machine's root",
);

/** With affinity, and behind a Local policy, no socket program serves the node: packets are translated. */
const web = service({
  type: 'NodePort',
  affinitySeconds: 10_800,
  externalPolicy: 'Local',
  ports: [
    { name: '', protocol: 'TCP', port: 80, nodePort: 30001 },
    { name: 'u', protocol: 'UDP', port: 80, nodePort: 30001 },
  ],
});
const ports = [
  { name: '', protocol: 'TCP', port: 443 },
  { name: 'u', protocol: 'UDP', port: 443 },
] as const;

root.test('every address of the node reaches a NodePort at every address of the node', async () => {
  const subject = await EbpfSubject.create('all');
  try {
    const flows: HostFlow[] = [];
    for (const via of ['socket', 'packet'] as const)
      for (const proto of ['tcp', 'udp'] as const)
        for (const src of ['192.0.2.11', '192.0.2.111', ''])
          for (const dst of ['192.0.2.11', '192.0.2.111'])
            flows.push({
              from: 'node',
              via,
              proto,
              src,
              dst,
              dport: 30001,
              wait: 5,
              close: 'fin',
              connected: true,
            });
    for (const backend of ['10.10.2.3', '10.10.1.1']) {
      const facts = { nodePortAddresses: NODE_ADDRESSES, nodeAddresses: NODE_ADDRESSES };
      const { state } = modelOf([web, slice([backend], { ports })], {}, facts);
      expect(await subject.start(snapshot(state))).toEqual([]);
      const outcomes = await subject.world.run(flows);
      const wrong = flows.flatMap((flow, i) =>
        outcomes[i]!.at === `${backend} 443` ? [] : [JSON.stringify({ ...flow, ...outcomes[i] })],
      );
      expect(wrong).toEqual([]);
    }
  } finally {
    await subject.remove();
  }
});
