/** From a draft to a packet and a socket, and from decide()'s verdict to what the socket must meet. */
import { decide, type Packet, type Verdict } from '../../../src/model/decide.ts';
import type { DesiredPort, DesiredState, Frontend, LocalDetector } from '../../../src/model/desired.ts';
import type { Address } from '../../../src/model/records.ts';
import { same } from '../../../src/model/same.ts';
import { ip } from '../../model/world.ts';
import type { FlowOutcome } from '../../support/flow-engine.ts';
import { BACKEND_PORTS, type HostFlow, NODE, NODE_PORTS, PODS, REMOTE } from '../../support/flow-world.ts';
import type { FlowDraft } from './cases.ts';

/** An answer that is due is waited for on a busy machine; silence is believed sooner. */
const ANSWER_SECONDS = 8;
const SILENCE_SECONDS = 0.3;

export interface PlannedFlow {
  readonly packet: Packet;
  readonly flow: HostFlow;
  readonly verdict: Verdict;
  /** The addresses of the node. */
  readonly nodes: readonly string[];
}

const UNBOUND = 'unbound';
type Pool = 'cluster' | 'local';

const UNALLOCATED = {
  4: ['10.200.1.77', '10.201.0.9', '198.18.0.9'],
  6: ['fd00:10:200::77', '2001:db8:18::9'],
};
const BACKENDS = Object.values({ ...PODS, ...REMOTE });

interface Target {
  readonly address: Address;
  readonly port: number;
  readonly proto: 'tcp' | 'udp';
}

function frontendsOf(state: DesiredState, family: 4 | 6): Frontend[] {
  return [...state.services.values()]
    .flatMap(({ ports }) => ports)
    .filter((port) => port.family === family && port.protocol !== 'SCTP')
    .flatMap(({ frontends }) => frontends);
}

function targetOf(draft: FlowDraft, state: DesiredState): Target {
  const { family, aim, twist } = draft;
  const pick = <T>(list: readonly T[]): T => list[aim % list.length]!;
  const frontends = frontendsOf(state, family);
  const nowhere = { address: ip(pick(UNALLOCATED[family])), port: pick(NODE_PORTS), proto: draft.proto };
  if (twist === 'backend') {
    const own = pick([PODS.L1, PODS.L4, REMOTE.R2, REMOTE.R3, REMOTE.R9])[family === 4 ? 0 : 1];
    return { ...nowhere, address: ip(own), port: pick(BACKEND_PORTS) };
  }
  if (twist === 'unallocated' || frontends.length === 0) return nowhere;
  const { address, port, protocol } = pick(frontends);
  const proto = protocol === 'TCP' ? 'tcp' : 'udp';
  if (twist === 'port') return { address, port: NODE_PORTS[(aim >> 3) % NODE_PORTS.length]!, proto };
  return twist === 'protocol' ? { address, port, proto: draft.proto } : { address, port, proto };
}

function placeOf(
  draft: FlowDraft,
  to: Address,
  nodes: readonly Address[],
): Pick<Packet, 'source' | 'from'> & { interface?: string } {
  const at = draft.family === 4 ? 0 : 1;
  if (draft.from === 'node') {
    const own = nodes.includes(to);
    const second = ip(NODE[at + 2]!);
    const isSecond = draft.bound && draft.aim % 3 === 0 && nodes.includes(second);
    return { from: 'node', source: own && !draft.bound ? to : isSecond ? second : ip(NODE[at]) };
  }
  const pods = Object.keys(PODS);
  const source = ip({ ...PODS, ...REMOTE }[draft.from][at]);
  return pods.includes(draft.from)
    ? { from: 'pod', source, interface: `veth${pods.indexOf(draft.from)}` }
    : { from: 'outside', source, interface: 'eth0' };
}

/**
 * null: the host would talk to itself, which no node sees.
 *
 * @param nodes the addresses that the node has now
 */
export function planFlow(
  draft: FlowDraft,
  state: DesiredState,
  nodes: readonly Address[],
): PlannedFlow | null {
  const { address, port, proto } = targetOf(draft, state);
  const place = placeOf(draft, address, nodes);
  if (draft.from !== 'node' && place.source === address) return null;
  const packet: Packet = {
    family: draft.family,
    protocol: proto === 'tcp' ? 'TCP' : 'UDP',
    destination: address,
    port,
    ...place,
  };
  const verdict = decide(state, packet);
  const bound = draft.from !== 'node' || draft.bound;
  const { from, connected, close, twin } = draft;
  // Only what runs on this node can be in its tree of cgroups.
  const via = from in PODS || from === 'node' ? draft.via : 'packet';
  const flow: HostFlow = {
    ...{ from, via, connected, close, proto, twin },
    src: bound ? packet.source : '',
    dst: address,
    dport: port,
    wait: verdict.action === 'drop' ? SILENCE_SECONDS : ANSWER_SECONDS,
  };
  return { packet, flow, verdict, nodes };
}

/** Nobody listens there, so that what passes is refused by its destination. */
function isDeaf({ destination, port }: Packet): boolean {
  const pods = BACKENDS.some((own) => own.some((one) => one === destination));
  return pods && !BACKEND_PORTS.some((one) => one === port);
}

function expectPeer(
  { packet, nodes }: PlannedFlow,
  masquerade: boolean,
  peer: string | undefined,
): string | null {
  if (masquerade) return nodes.includes(peer!) ? null : `the server sees ${peer}, not an address of the node`;
  // Toward its own pods the node has one of its addresses in any case.
  const right = packet.from === 'node' ? nodes.includes(peer!) : peer === packet.source;
  return right ? null : `the server sees ${peer}, not ${packet.source}`;
}

/** What is wrong with an outcome; null: nothing. */
export function judge(planned: PlannedFlow, outcome: FlowOutcome): string | null {
  const { packet, verdict } = planned;
  const got = outcome.outcome === 'ok' ? `ok from ${outcome.at}` : outcome.outcome;
  switch (verdict.action) {
    case 'drop':
      return got === 'timeout' ? null : `${got}, not silence`;
    case 'reject':
      return got === 'refused' ? null : `${got}, not refused`;
    case 'pass': {
      if (isDeaf(packet)) return got === 'refused' ? null : `${got}, not refused by its destination`;
      if (outcome.at !== `${packet.destination} ${packet.port}`) return `${got}, not by its own destination`;
      return expectPeer(planned, false, outcome.peer);
    }
    case 'forward': {
      const backend = verdict.backends.find(({ address, port }) => outcome.at === `${address} ${port}`);
      if (outcome.outcome === 'ok' && backend) return expectPeer(planned, backend.masquerade, outcome.peer);
      return `${got}, not one of ${verdict.backends.map(({ address, port }) => `${address} ${port}`).join(', ')}`;
    }
  }
}

/**
 * Which backend each client of a service port with affinity must meet again. Only what is certain: the same pool,
 * the same timeout, and a backend that was a member all the time.
 */
export class AffinityMemory {
  readonly #known = new Map<string, { at: string; port: string; pool: Pool; seconds: number; who: string }>();

  #detector: LocalDetector | null = null;

  #key({ packet, flow, verdict }: PlannedFlow): string | null {
    if (verdict.action !== 'forward' || verdict.affinitySeconds === 0) return null;
    // Sockets without an address, and sockets and packets beside each other, are not one client to every mode.
    const client = flow.src === '' ? `${UNBOUND} ${packet.source}` : packet.source;
    return `${portKey(verdict.port)} ${client} ${flow.via}`;
  }

  /** What changed may have made a client free to go elsewhere. */
  follow(state: DesiredState): void {
    // Other static rules mean another table in nft mode, which knows nothing of clients (docs/nft.md).
    if (!same(state.node.detector, this.#detector)) this.forget();
    this.#detector = state.node.detector;
    const ports = new Map([...state.services.values()].flatMap((s) => s.ports).map((p) => [portKey(p), p]));
    for (const [key, { at, port, pool, seconds }] of this.#known) {
      const now = ports.get(port);
      const member = now?.[pool].some((backend) => `${backend.address} ${backend.port}` === at);
      if (!member || now?.affinitySeconds !== seconds) this.#known.delete(key);
    }
  }

  /** What is wrong; null: nothing. Learns from all outcomes of a step at once, which run beside each other. */
  judge(flows: readonly PlannedFlow[], outcomes: readonly FlowOutcome[]): (string | null)[] {
    const pools = poolsOf(flows);
    // Some modes remember one backend for the port, whichever of its pools it was picked from (docs/conformance.md).
    for (const [key, { who, pool }] of this.#known)
      if ([...(pools.get(who) ?? [])].some((one) => one !== pool)) this.#known.delete(key);
    const met = new Map<string, Set<string>>();
    const complaints = flows.map((planned, i) => {
      const key = this.#key(planned);
      const { at } = outcomes[i]!;
      if (key === null || at === undefined || planned.verdict.action !== 'forward') return null;
      const known = this.#known.get(key);
      met.set(key, (met.get(key) ?? new Set()).add(at));
      return known && known.at !== at ? `answered by ${at}, although its affinity is to ${known.at}` : null;
    });
    for (const [i, planned] of flows.entries()) {
      const key = this.#key(planned);
      const { at } = outcomes[i]!;
      if (key === null || at === undefined || planned.verdict.action !== 'forward') continue;
      const { port, pool, affinitySeconds: seconds } = planned.verdict;
      const who = whoOf(planned.flow, port);
      if (met.get(key)!.size > 1 || pools.get(who)!.size > 1) this.#known.delete(key);
      else this.#known.set(key, { at, port: portKey(port), pool, seconds, who });
    }
    return complaints;
  }

  forget(): void {
    this.#known.clear();
  }

  /** Other addresses of the node: its sockets without one may get another, and are then another client. */
  forgetUnbound(): void {
    for (const key of this.#known.keys()) if (key.includes(` ${UNBOUND} `)) this.#known.delete(key);
  }
}

/** A host and a service port; the sockets of a host may or may not be one client. */
function whoOf({ from }: HostFlow, port: DesiredPort): string {
  return `${portKey(port)} from ${from}`;
}

/** Which pools each of them is led to. */
function poolsOf(planned: readonly PlannedFlow[]): Map<string, Set<Pool>> {
  const pools = new Map<string, Set<Pool>>();
  for (const { flow, verdict } of planned) {
    if (verdict.action !== 'forward') continue;
    const who = whoOf(flow, verdict.port);
    pools.set(who, (pools.get(who) ?? new Set()).add(verdict.pool));
  }
  return pools;
}

function portKey(port: DesiredPort): string {
  return `${port.name} ${port.family} ${port.protocol}`;
}
