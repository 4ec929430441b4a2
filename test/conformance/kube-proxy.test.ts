/**
 * The conformance table through a real kube-proxy in its nftables mode: what is to be the reference says itself
 * whether it is quoted right. TRIPLANE_KUBE_PROXY=/path/to/kube-proxy npm test -- test/conformance/kube-proxy.test.ts
 */
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { deleteFlows } from '../../src/node/conntrack.ts';
import { CONFORMANCE, type ConformanceRow, type Expectation } from '../model/conformance.ts';
import { ORIGINALS } from '../model/objects.ts';
import type { ApiObject } from '../support/apiserver.ts';
import { objectOf, stored } from '../support/cluster-objects.ts';
import { KubeProxy } from '../support/kube-proxy.ts';
import { NodeWorld } from '../support/node-world.ts';
import { privilege } from '../support/privilege.ts';
import { SCTP_SENDER } from '../support/sctp.ts';
import { skipUnless } from '../support/skip.ts';
import { Asker } from './asking.ts';
import { datagramsTo } from './table.ts';

const PROGRAM = process.env.TRIPLANE_KUBE_PROXY ?? '';
const BOTH: Expectation = { to: ['10.10.1.1 80', '10.10.2.2 80'], masquerade: 'yes' };

/** Where it does otherwise; docs/conformance.md says why we do not. Beside these, it refuses TCP with ICMP. */
const OTHERWISE: Readonly<Record<string, Expectation>> = {
  'only malformed source ranges: let nobody in': BOTH,
  'a ClusterIP Service with a nodePort left from before: listens on no node port': BOTH,
};
/** Rows in which there is nothing to compare with, and why. */
const BEYOND: Readonly<Record<string, string>> = {
  'an external IP of two services of the same age: the first by name has it': 'it leaves that to chance',
  'an external IP of two services: the older has it': 'it leaves that to chance',
  'the NodePort of one service is the external IP and port of another: the explicit address wins over the older NodePort':
    'it leaves that to chance',
  'the external IP of an older service is the ClusterIP and port of another: the ClusterIP wins':
    'it leaves that to chance',
  'endpoints that are refused alone: the others serve':
    'nft refuses what it writes, and all of its table with it',
};

test('the rows that are set apart are rows of the table', () => {
  const names = CONFORMANCE.map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining([...Object.keys(OTHERWISE), ...Object.keys(BEYOND)]));
});

function described({ records }: ConformanceRow): ApiObject[] {
  return ORIGINALS.get(records)?.map(stored) ?? records.map(objectOf);
}

const canAsk = existsSync(PROGRAM) && existsSync(SCTP_SENDER) && privilege() === 'root';
skipUnless(canAsk, 'needs root, python3, and a kube-proxy in TRIPLANE_KUBE_PROXY').describe(
  'kube-proxy, the conformance table',
  () => {
    let world: NodeWorld;
    let asker: Asker;
    let proxy: KubeProxy;

    beforeAll(async () => {
      world = await NodeWorld.create();
      asker = new Asker(world, 'with ICMP');
      proxy = await new KubeProxy(PROGRAM, world.namespaceOf('node')).open();
    });
    afterAll(async () => {
      await proxy?.close();
      await world?.remove();
    });

    // Where nobody can be asked, one skip says so and not one for each row.
    for (const original of canAsk ? CONFORMANCE : CONFORMANCE.slice(0, 1)) {
      const row = { ...original, expect: OTHERWISE[original.name] ?? original.expect };
      const { name, config, facts } = row;
      test(name, async (context) => {
        if (BEYOND[name]) context.skip(BEYOND[name]);
        if ((await proxy.bring({ objects: described(row), config, facts })) === 'changed') {
          asker.forget();
          await deleteFlows(datagramsTo(row), world.netns);
        }
        await asker.expectOutcome(row);
      });
    }
  },
);
