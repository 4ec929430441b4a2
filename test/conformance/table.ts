/** The conformance table through a dataplane and the real kernel, with real sockets. */
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Dataplane } from '../../src/dataplane/dataplane.ts';
import type { DesiredState } from '../../src/model/desired.ts';
import { deleteFlows, type FlowMatch } from '../../src/node/conntrack.ts';
import { CONFORMANCE, type ConformanceRow, type Expectation } from '../model/conformance.ts';
import { modelOf } from '../model/world.ts';
import {
  columnOf,
  MATRIX_FILE,
  type MatrixMode,
  NOT_YET,
  readColumn,
  writeColumn,
} from '../support/conformance-matrix.ts';
import { changeBetween, snapshot } from '../support/desired.ts';
import { NodeWorld } from '../support/node-world.ts';
import { SCTP_SENDER } from '../support/sctp.ts';
import type { skipUnless } from '../support/skip.ts';
import { Asker } from './asking.ts';

/** UDP flows to where the rows of this scene may have sent some. */
export function datagramsTo({ records, facts }: ConformanceRow): FlowMatch[] {
  const frontends = [...modelOf(records, {}, facts).state.services.values()]
    .flatMap(({ ports }) => ports)
    .flatMap(({ frontends }) => frontends);
  return frontends.map(({ address, port }) => ({
    protocol: 'UDP',
    destination: { address, port },
    answeredBy: 'any',
  }));
}

export interface Conformance {
  readonly mode: MatrixMode;
  /** Where a mode runs more than once: how. All runs answer for its one column. */
  readonly way?: string;
  readonly gate: ReturnType<typeof skipUnless>;
  /** The cgroup v2 folder in which the node's and its pods' processes are to run. */
  readonly cgroup?: string;
  open(netns: string): Dataplane;
  /** Undoes what open() did beside the dataplane. */
  close?(): void;
  /** Rows that this mode answers otherwise, by name; docs/ says why. */
  readonly otherwise?: Readonly<Record<string, Expectation>>;
}

export function testConformance({ mode, way, gate, cgroup, open, close, otherwise = {} }: Conformance): void {
  gate.describe(`${[mode, way].filter(Boolean).join(', ')}, the conformance table`, () => {
    let world: NodeWorld;
    let dataplane: Dataplane;
    let asker: Asker;
    let current: DesiredState;
    const answered = new Map<string, 'table' | 'otherwise'>();

    beforeAll(async () => {
      world = await NodeWorld.create({ cgroup: cgroup ?? null });
      asker = new Asker(world);
      dataplane = open(world.netns);
      current = snapshot(modelOf([]).state);
      expect((await dataplane.start(current)).refusals).toEqual([]);
    });
    afterAll(async () => {
      await dataplane?.close();
      close?.();
      await world?.remove();
    });

    async function bring(row: ConformanceRow): Promise<void> {
      const next = snapshot(modelOf(row.records, row.config, row.facts).state);
      const change = changeBetween(current, next);
      const { refusals } = await dataplane.apply(change, next);
      current = next;
      expect(refusals).toEqual([]);
      // As the agent does: a client port that comes round must not find the flow that it had in another scene.
      if (change.set.length + change.remove.length === 0) return;
      asker.forget();
      await deleteFlows(datagramsTo(row), world.netns);
    }

    describe('rows', () => {
      for (const original of CONFORMANCE) {
        const row = { ...original, expect: otherwise[original.name] ?? original.expect };
        test(row.name, async (context) => {
          await bring(row);
          if (row.packet.protocol === 'SCTP' && !existsSync(SCTP_SENDER))
            context.skip('needs python3 to make an SCTP packet');
          await asker.expectOutcome(row);
          answered.set(row.name, original.name in otherwise ? 'otherwise' : 'table');
        });
      }
    });

    test(`and ${MATRIX_FILE} says so`, (context) => {
      if (answered.size < CONFORMANCE.length) context.skip('not every row was answered in this run');
      const column = columnOf(answered);
      if (process.env.TRIPLANE_CONFORMANCE === 'write') writeColumn(mode, column);
      const written = readColumn(mode);
      if (Object.values(written).every((cell) => cell === NOT_YET)) {
        console.log(`${MATRIX_FILE} has no column of ${mode} yet: ${JSON.stringify(column)}`);
        context.skip(`${MATRIX_FILE} has no column of ${mode} yet`);
      }
      expect(written, 'npm run conformance writes it').toEqual(column);
    });

    test('and the kernel holds exactly the last state', async () => {
      expect((await dataplane.verify(current)).repaired).toEqual([]);
    });
  });
}
