/** Whatever happened before: the kernel holds what a fresh start from the final state would have made. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cleanupNft } from '../../../src/dataplane/nft/cleanup.ts';
import { NftDataplane } from '../../../src/dataplane/nft/nft-dataplane.ts';
import { readNft } from '../../../src/dataplane/nft/readback.ts';
import { ClusterModel } from '../../../src/model/cluster.ts';
import type { DesiredChange, DesiredState } from '../../../src/model/desired.ts';
import { arbitraryChange, arbitraryConfig, arbitraryFacts } from '../../model/arbitrary.ts';
import { changeBetween, snapshot } from '../../support/desired.ts';
import { type Bare, bareNamespaces } from '../../support/namespaces.ts';
import { tableLines } from '../../support/nft-table.ts';
import { mayChangeNetworks } from '../../support/privilege.ts';
import { skipUnless } from '../../support/skip.ts';
import { arbitraryState } from './arbitrary.ts';

const networks = skipUnless(mayChangeNetworks(), 'needs root or an unprivileged user namespace');

/** Shrinking would rebuild tables for minutes; the seed is in the message. */
const RUNS = { numRuns: 7, endOnFailure: true };

const sorted = <T>(list: readonly T[]) => list.map((one) => JSON.stringify(one)).sort();

networks.describe('nft, state without traffic', () => {
  let bare: Bare;
  beforeAll(async () => {
    bare = await bareNamespaces(2);
  });
  afterAll(() => bare?.remove());

  /** Applies a history to one namespace and compares it with a fresh start in the other. */
  async function holds(first: DesiredState, steps: readonly [DesiredChange, DesiredState][]): Promise<void> {
    const [lived = '', fresh = ''] = bare.paths;
    const last = steps.at(-1)?.[1] ?? first;
    await cleanupNft(lived);
    await cleanupNft(fresh);
    const dataplane = new NftDataplane({ netns: lived });
    const second = new NftDataplane({ netns: lived });
    const other = new NftDataplane({ netns: fresh });
    try {
      expect((await dataplane.start(first)).refusals).toEqual([]);
      for (const [change, state] of steps)
        expect((await dataplane.apply(change, state)).refusals).toEqual([]);
      expect(await dataplane.survey()).toBe(true);
      expect((await dataplane.verify(last)).repaired).toEqual([]);
      expect(await second.start(last)).toEqual({ operations: 0, refusals: [] });
      expect((await second.verify(last)).repaired).toEqual([]);
      await other.start(last);
      expect(await tableLines(lived)).toEqual(await tableLines(fresh));
      const [a, b] = [await readNft(lived), await readNft(fresh)];
      expect(sorted(a.services)).toEqual(sorted(b.services));
      expect(sorted(a.endpoints)).toEqual(sorted(b.endpoints));
    } finally {
      for (const one of [dataplane, second, other]) await one.close();
    }
  }

  test('any history of cluster records', async () => {
    await fc.assert(
      fc.asyncProperty(
        arbitraryConfig,
        arbitraryFacts,
        fc.array(fc.array(arbitraryChange, { minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 10 }),
        async (config, facts, batches) => {
          const model = new ClusterModel(config, facts);
          model.produce();
          const first = snapshot(model.state);
          const steps = batches.map((batch): [DesiredChange, DesiredState] => {
            model.apply(batch);
            return [model.produce(), snapshot(model.state)];
          });
          await holds(first, steps);
        },
      ),
      RUNS,
    );
  });

  test('any history of sizes, timeouts, ranges and detectors', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(arbitraryState, { minLength: 2, maxLength: 8 }), async ([first, ...rest]) => {
        let before = first!;
        const steps = rest.map((state): [DesiredChange, DesiredState] => {
          const change = changeBetween(before, state);
          before = state;
          return [change, state];
        });
        await holds(first!, steps);
      }),
      RUNS,
    );
  });

  test('a restart finds any older state and makes it the new one', async () => {
    await fc.assert(
      fc.asyncProperty(arbitraryState, arbitraryState, async (before, after) => {
        const [lived = '', fresh = ''] = bare.paths;
        await cleanupNft(lived);
        await cleanupNft(fresh);
        for (const [netns, states] of [
          [lived, [before, after]],
          [fresh, [after]],
        ] as const) {
          for (const state of states) {
            const dataplane = new NftDataplane({ netns });
            expect((await dataplane.start(state)).refusals).toEqual([]);
            expect((await dataplane.verify(state)).repaired).toEqual([]);
            await dataplane.close();
          }
        }
        expect(await tableLines(lived)).toEqual(await tableLines(fresh));
      }),
      RUNS,
    );
  });
});
