/** Sends a row's packet from a world and looks at what becomes of it. */
import { expect } from 'vitest';
import type { RequestResult } from '../../src/lab/results.ts';
import type { ConformanceRow, Expectation } from '../model/conformance.ts';
import { NODE_ADDRESSES } from '../model/world.ts';
import { type HostName, MASQUERADE_ADDRESSES, type NodeWorld, serverName } from '../support/node-world.ts';
import { sendSctpInit } from '../support/sctp.ts';
import { SLOWNESS } from '../support/slowness.ts';

/** Long enough for an answer on a busy machine when one is due; a drop is believed after it. */
const ANSWER_MS = 2_000 * SLOWNESS;
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

export class Asker {
  readonly #world: NodeWorld;
  readonly #refusesTcp: 'with reset' | 'with ICMP';
  /** Who answered a client with affinity, in this scene. */
  readonly #stuck = new Map<string, [string | undefined]>();

  /** `refusesTcp`: as the table says, with a reset; or with ICMP like everything else. */
  constructor(world: NodeWorld, refusesTcp: 'with reset' | 'with ICMP' = 'with reset') {
    this.#world = world;
    this.#refusesTcp = refusesTcp;
  }

  /** Another scene: clients with affinity may be remembered no more. */
  forget(): void {
    this.#stuck.clear();
  }

  /** Throws as `expect` does if it is not what the row says. */
  async expectOutcome(row: ConformanceRow): Promise<void> {
    if (row.packet.protocol === 'SCTP') return this.#expectSctp(row);
    const borrowed = BORROWED.find((address) => address === row.packet.source);
    const bits = row.packet.family === 4 ? 32 : 128;
    if (borrowed)
      await this.#world.ip('node', [`addr add ${borrowed}/${bits} dev lo${bits === 128 ? ' nodad' : ''}`]);
    try {
      if (borrowed) await this.#isHere(borrowed);
      if (typeof row.expect === 'object') await this.#expectForward(row, row.expect);
      else if (row.expect === 'drop') await this.#expectSilence(row);
      else if (row.expect === 'pass') await this.#expectPass(row);
      else await this.#expectRefusal(row, row.expect);
    } finally {
      if (borrowed) await this.#world.ip('node', [`addr del ${borrowed}/${bits} dev lo`]);
    }
  }

  /** The kernel adds the route to an IPv6 address of its own some time after the address (addrconf_dad_work). */
  async #isHere(address: string): Promise<void> {
    const get = async () => (await this.#world.run('node', ['ip', 'route', 'get', address])).stdout;
    await expect.poll(get, { timeout: 10_000 }).toMatch(/^local /);
  }

  #ask(row: ConformanceRow, count: number, timeoutMs: number) {
    const { packet } = row;
    const protocol = packet.protocol === 'TCP' ? 'tcp' : 'udp';
    return this.#world.place(senderOf(row)).call(protocol, packet.destination, packet.port, {
      count,
      concurrency: count,
      timeoutMs,
      bind: packet.source,
    });
  }

  async #expectForward(row: ConformanceRow, to: Extract<Expectation, object>): Promise<void> {
    // New clients that come at once may each get a backend of their own; one first is remembered.
    const first = to.sticky ? (await this.#ask(row, 1, ANSWER_MS)).requests : [];
    const requests = [...first, ...(await this.#ask(row, CALLS - first.length, ANSWER_MS)).requests];
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
    const [known] = this.#stuck.get(key) ?? requests.map(({ name }) => name);
    for (const { name } of requests) expect(name).toBe(known);
    this.#stuck.set(key, [known]);
  }

  async #expectRefusal(row: ConformanceRow, how: 'tcp-reset' | 'port-unreachable'): Promise<void> {
    const sender = senderOf(row);
    const before = await this.#world.unreachables(sender);
    const { requests } = await this.#ask(row, 1, ANSWER_MS);
    if (!isToldAtOnce(row, requests[0]!)) expect(requests[0]!.outcome).toBe('refused');
    const told = (await this.#world.unreachables(sender)) - before;
    // Over IPv6 one message is not always enough for the client: it sends its SYN once more.
    if (how === 'tcp-reset' && this.#refusesTcp === 'with ICMP') expect([1, 2]).toContain(told);
    else expect(told).toBe(how === 'tcp-reset' ? 0 : 1);
  }

  async #expectSilence(row: ConformanceRow): Promise<void> {
    const { requests } = await this.#ask(row, 1, SILENCE_MS);
    if (!isToldAtOnce(row, requests[0]!)) expect(requests[0]!.outcome).toBe('timeout');
  }

  async #expectPass(row: ConformanceRow): Promise<void> {
    const { requests } = await this.#ask(row, 1, ANSWER_MS);
    expect(requests[0]).toMatchObject({ outcome: 'ok', name: ownerOf(row), peer: expect.any(String) });
    if (row.packet.destination !== '127.0.0.1') expect(requests[0]!.peer).toBe(row.packet.source);
  }

  async #expectSctp(row: ConformanceRow): Promise<void> {
    const sender = senderOf(row) as HostName;
    if (typeof row.expect === 'object') {
      const [, port] = row.expect.to[0]!.split(' ');
      const received = await sendSctpInit(this.#world, sender, row.packet, { at: 'L1', port: Number(port) });
      expect(received).toBe(1);
      return;
    }
    const before = await this.#world.unreachables(sender);
    await sendSctpInit(this.#world, sender, row.packet, null);
    await expect.poll(async () => (await this.#world.unreachables(sender)) - before).toBe(1);
  }
}
