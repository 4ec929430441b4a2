/** The conformance table through a dataplane and the real kernel, with real sockets. */
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Dataplane } from '../../src/dataplane/dataplane.ts';
import type { RequestResult } from '../../src/lab/results.ts';
import type { DesiredState } from '../../src/model/desired.ts';
import { deleteFlows, type FlowMatch } from '../../src/node/conntrack.ts';
import { CONFORMANCE, type ConformanceRow, type Expectation } from '../model/conformance.ts';
import { modelOf, NODE_ADDRESSES } from '../model/world.ts';
import {
  columnOf,
  MATRIX_FILE,
  type MatrixMode,
  NOT_YET,
  readColumn,
  writeColumn,
} from '../support/conformance-matrix.ts';
import { changeBetween, snapshot } from '../support/desired.ts';
import { type HostName, MASQUERADE_ADDRESSES, NodeWorld, serverName } from '../support/node-world.ts';
import { SCTP_SENDER, sendSctpInit } from '../support/sctp.ts';
import type { skipUnless } from '../support/skip.ts';

/** Long enough for an answer on a busy machine when one is due; a drop is believed after it. */
const ANSWER_MS = 2_000;
const SILENCE_MS = 200;
const CALLS = 6;
/** An address that the sender has only while the row runs. */
const BORROWED = ['198.18.0.1', '2001:db8:18::1'];

function senderOf(row: ConformanceRow): HostName | 'node' {
  const { from, source } = row.packet;
  if (from === 'node') return 'node';
  const senders: Record<string, HostName> = {
    '10.10.1.99': 'pod',
    'fd00:10:10:1::99': 'pod',
    '10.10.1.1': 'L1',
    'fd00:10:10:1::1': 'L1',
    '10.10.2.99': 'remote-pod',
    'fd00:10:10:2::99': 'remote-pod',
    '198.51.100.7': 'outside',
    '2001:db8:f::7': 'outside',
    '203.0.113.7': 'other',
    '2001:db8:e::7': 'other',
  };
  return senders[source]!;
}

/** Who answers at an address that is none of a service. */
function ownerOf({ packet }: ConformanceRow): string {
  if ([...NODE_ADDRESSES, '127.0.0.1'].some((address) => address === packet.destination)) return 'node';
  return serverName(`${packet.destination} ${packet.port}`) ?? 'nobody';
}

/** UDP flows to where the rows of this scene may have sent some. */
function datagramsTo({ records, facts }: ConformanceRow): FlowMatch[] {
  const frontends = [...modelOf(records, {}, facts).state.services.values()]
    .flatMap(({ ports }) => ports)
    .flatMap(({ frontends }) => frontends);
  return frontends.map(({ address, port }) => ({
    protocol: 'UDP',
    destination: { address, port },
    answeredBy: 'any',
  }));
}

/**
 * What is dropped while it is sent, by netfilter at the output hook or by a program at tc egress, a datagram's sender on
 * the node hears of at once, if it has asked for errors (IP_RECVERR).
 */
function isToldAtOnce({ packet }: ConformanceRow, { outcome, detail }: RequestResult): boolean {
  return (
    packet.from === 'node' &&
    packet.protocol === 'UDP' &&
    (outcome === 'unreachable' || outcome === 'error') &&
    /EPERM|ENOBUFS/.test(detail ?? '')
  );
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
    let current: DesiredState;
    const answered = new Map<string, 'table' | 'otherwise'>();
    /** Who answered a client with affinity, in this scene. */
    const stuck = new Map<string, [string | undefined]>();

    beforeAll(async () => {
      world = await NodeWorld.create({ cgroup: cgroup ?? null });
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
      stuck.clear();
      await deleteFlows(datagramsTo(row), world.netns);
    }

    const ask = (row: ConformanceRow, count: number, timeoutMs: number) => {
      const { packet } = row;
      const protocol = packet.protocol === 'TCP' ? 'tcp' : 'udp';
      return world.place(senderOf(row)).call(protocol, packet.destination, packet.port, {
        count,
        concurrency: count,
        timeoutMs,
        bind: packet.source,
      });
    };

    async function expectForward(row: ConformanceRow, to: Extract<Expectation, object>): Promise<void> {
      // New clients that come at once may each get a backend of their own; one first is remembered.
      const first = to.sticky ? (await ask(row, 1, ANSWER_MS)).requests : [];
      const requests = [...first, ...(await ask(row, CALLS - first.length, ANSWER_MS)).requests];
      const allowed = to.to.map(serverName);
      for (const { outcome, name, peer, detail } of requests) {
        expect({ outcome, detail }).toEqual({ outcome: 'ok', detail: undefined });
        expect(allowed).toContain(name);
        const own = allowed.find((one) => one === name);
        const backend = to.to[allowed.indexOf(own!)]!.split(' ')[0];
        const masquerade =
          to.masquerade === 'hairpin' ? backend === row.packet.source : to.masquerade === 'yes';
        // What the node sends to its own pods has an address of the node in any case: of the bound one or not.
        if (masquerade) expect([...MASQUERADE_ADDRESSES, ...NODE_ADDRESSES]).toContain(peer);
        else expect(peer).toBe(row.packet.source);
      }
      expect(requests.length).toBe(CALLS);
      if (!to.sticky) return;
      // One backend for all of them, and the one that this client has had in the scene by other addresses.
      const key = `${row.packet.source} ${row.packet.protocol}`;
      const [known] = stuck.get(key) ?? requests.map(({ name }) => name);
      for (const { name } of requests) expect(name).toBe(known);
      stuck.set(key, [known]);
    }

    async function expectRefusal(row: ConformanceRow, how: 'tcp-reset' | 'port-unreachable'): Promise<void> {
      const sender = senderOf(row);
      const before = await world.unreachables(sender);
      const { requests } = await ask(row, 1, ANSWER_MS);
      if (!isToldAtOnce(row, requests[0]!)) expect(requests[0]!.outcome).toBe('refused');
      expect((await world.unreachables(sender)) - before).toBe(how === 'tcp-reset' ? 0 : 1);
    }

    async function expectSilence(row: ConformanceRow): Promise<void> {
      const { requests } = await ask(row, 1, SILENCE_MS);
      if (!isToldAtOnce(row, requests[0]!)) expect(requests[0]!.outcome).toBe('timeout');
    }

    async function expectPass(row: ConformanceRow): Promise<void> {
      const { requests } = await ask(row, 1, ANSWER_MS);
      expect(requests[0]).toMatchObject({ outcome: 'ok', name: ownerOf(row), peer: expect.any(String) });
      if (row.packet.destination !== '127.0.0.1') expect(requests[0]!.peer).toBe(row.packet.source);
    }

    async function expectSctp(row: ConformanceRow): Promise<void> {
      const sender = senderOf(row) as HostName;
      if (typeof row.expect === 'object') {
        const [, port] = row.expect.to[0]!.split(' ');
        const received = await sendSctpInit(world, sender, row.packet, { at: 'L1', port: Number(port) });
        expect(received).toBe(1);
        return;
      }
      const before = await world.unreachables(sender);
      await sendSctpInit(world, sender, row.packet, null);
      await expect.poll(async () => (await world.unreachables(sender)) - before).toBe(1);
    }

    describe('rows', () => {
      for (const original of CONFORMANCE) {
        const row = { ...original, expect: otherwise[original.name] ?? original.expect };
        test(row.name, async (context) => {
          await bring(row);
          if (row.packet.protocol === 'SCTP') {
            if (!existsSync(SCTP_SENDER)) context.skip('needs python3 to make an SCTP packet');
            await expectSctp(row);
            answered.set(row.name, original.name in otherwise ? 'otherwise' : 'table');
            return;
          }
          const borrowed = BORROWED.find((address) => address === row.packet.source);
          const bits = row.packet.family === 4 ? 32 : 128;
          if (borrowed)
            await world.ip('node', [`addr add ${borrowed}/${bits} dev lo${bits === 128 ? ' nodad' : ''}`]);
          try {
            if (typeof row.expect === 'object') await expectForward(row, row.expect);
            else if (row.expect === 'drop') await expectSilence(row);
            else if (row.expect === 'pass') await expectPass(row);
            else await expectRefusal(row, row.expect);
            answered.set(row.name, original.name in otherwise ? 'otherwise' : 'table');
          } finally {
            if (borrowed) await world.ip('node', [`addr del ${borrowed}/${bits} dev lo`]);
          }
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
