/**
 * The kernel's connection table: deleting flows, listing them, counting them (ctnetlink, native/conntrack.cc).
 * Nothing here blocks the event loop. Errors carry the errno as `code`: EPERM without CAP_NET_ADMIN.
 */
import { addressBytes, familyOf, formatAddress } from '../model/address.ts';
import type { Address, Family, Protocol } from '../model/records.ts';
import { loadNative } from './native.ts';

export interface Endpoint {
  readonly address: Address;
  readonly port: number;
}

/** Flows to one frontend. */
export interface FlowMatch {
  readonly protocol: Protocol;
  /** The original destination. */
  readonly destination: Endpoint;
  /**
   * Where the answers come from: one backend; 'untranslated': the destination itself, so that no dataplane of
   * ours had a hand in it; 'any'.
   */
  readonly answeredBy: Endpoint | 'untranslated' | 'any';
  /** 'unanswered': only flows that have seen no answer yet. Absent: all. */
  readonly only?: 'unanswered';
}

export interface FlowDeletion {
  readonly deleted: number;
  /** How many times the table was walked: what it cost. */
  readonly dumps: number;
}

export interface FlowSide {
  readonly source: Address;
  readonly sourcePort: number;
  readonly destination: Address;
  readonly destinationPort: number;
  /** 0 when the kernel does not count (net.netfilter.nf_conntrack_acct). */
  readonly packets: bigint;
  readonly bytes: bigint;
}

export interface Flow {
  readonly family: Family;
  /** "TCP", "UDP", "SCTP", "ICMP", "ICMPv6", or the number. */
  readonly protocol: string;
  /** TCP's and SCTP's own; "UNREPLIED", "REPLIED" or "ASSURED" for the others. Empty: not known. */
  readonly state: string;
  readonly original: FlowSide;
  readonly reply: FlowSide;
  readonly timeoutSeconds: number;
  readonly mark: number;
  readonly zone: number;
  readonly id: number;
  readonly destinationTranslated: boolean;
  readonly sourceTranslated: boolean;
}

export interface FlowQuery {
  /** Absent: both. */
  readonly family?: Family;
  readonly protocol?: Protocol;
  /** Needs `protocol`. Port 0: all. */
  readonly destination?: Endpoint;
  /** 'unanswered': only flows that have seen no answer yet. Absent: all. Needs `protocol`. */
  readonly only?: 'unanswered';
}

const PROTOCOL_NUMBERS: Readonly<Record<Protocol, number>> = { TCP: 6, UDP: 17, SCTP: 132 };
const PROTOCOL_NAMES: Readonly<Record<number, string>> = {
  1: 'ICMP',
  6: 'TCP',
  17: 'UDP',
  58: 'ICMPv6',
  132: 'SCTP',
};
/** enum tcp_conntrack of linux/netfilter/nf_conntrack_tcp.h. */
const TCP_STATES = [
  '',
  'SYN_SENT',
  'SYN_RECV',
  'ESTABLISHED',
  'FIN_WAIT',
  'CLOSE_WAIT',
  'LAST_ACK',
  'TIME_WAIT',
  'CLOSE',
  'SYN_SENT2',
];
/** enum sctp_conntrack of linux/netfilter/nf_conntrack_sctp.h. */
const SCTP_STATES = [
  '',
  'CLOSED',
  'COOKIE_WAIT',
  'COOKIE_ECHOED',
  'ESTABLISHED',
  'SHUTDOWN_SENT',
  'SHUTDOWN_RECD',
  'SHUTDOWN_ACK_SENT',
  'HEARTBEAT_SENT',
  'HEARTBEAT_ACKED',
];
/** IPS_* of linux/netfilter/nf_conntrack_common.h. */
const IPS_SEEN_REPLY = 1 << 1;
const IPS_ASSURED = 1 << 2;
const IPS_SRC_NAT = 1 << 4;
const IPS_DST_NAT = 1 << 5;

const ROW_BYTES = 128;
const ITEM_BYTES = 40;
/** Rows that a listing holds at a time; about 300 bytes each as objects. */
const ROWS_PER_BATCH = 512;
/** Items that one call of the addon takes; more are split. */
const ITEMS_PER_CALL = 1 << 16;
const REPLY_KINDS = { any: 0, backend: 1, untranslated: 2 } as const;

function checkPort(port: number, least: number): void {
  if (!Number.isInteger(port) || port < least || port > 65535) throw new RangeError(`not a port: ${port}`);
}

function packMatch(match: FlowMatch, into: Buffer, at: number): void {
  const { destination, answeredBy } = match;
  const family = familyOf(destination.address);
  checkPort(destination.port, 1);
  into[at] = family;
  into[at + 1] = PROTOCOL_NUMBERS[match.protocol];
  into[at + 3] = match.only === 'unanswered' ? 1 : 0;
  into.writeUInt16LE(destination.port, at + 4);
  into.set(addressBytes(destination.address), at + 8);
  if (typeof answeredBy === 'string') {
    into[at + 2] = REPLY_KINDS[answeredBy];
    return;
  }
  checkPort(answeredBy.port, 1);
  if (familyOf(answeredBy.address) !== family)
    throw new RangeError(`${answeredBy.address} is not of the family of ${destination.address}`);
  into[at + 2] = REPLY_KINDS.backend;
  into.writeUInt16LE(answeredBy.port, at + 6);
  into.set(addressBytes(answeredBy.address), at + 24);
}

/**
 * Deletes every flow that one of the matches means, and no other; flows that end meanwhile are no error.
 * The cost is that of walking the table (5 ms for 262,144 buckets), once for each destination as long as they
 * are few, else once for each protocol and family.
 *
 * @param netns path of a network namespace; '' is the current one
 */
export async function deleteFlows(matches: readonly FlowMatch[], netns = ''): Promise<FlowDeletion> {
  let deleted = 0;
  let dumps = 0;
  for (let start = 0; start < matches.length; start += ITEMS_PER_CALL) {
    const part = matches.slice(start, start + ITEMS_PER_CALL);
    const items = Buffer.alloc(part.length * ITEM_BYTES);
    for (const [index, match] of part.entries()) packMatch(match, items, index * ITEM_BYTES);
    const result = await loadNative().conntrackDelete(netns, items);
    deleted += result.deleted;
    dumps += result.dumps;
  }
  return { deleted, dumps };
}

/** A flow to make known: as it is from its beginning, not translated. */
export interface NewFlow {
  readonly protocol: Protocol;
  readonly source: Endpoint;
  readonly destination: Endpoint;
  /** TCP's, as in Flow.state; '' for the others. */
  readonly state: string;
  readonly timeoutSeconds: number;
}

const NEW_ITEM_BYTES = 44;

function packNewFlow({ protocol, source, destination, state, timeoutSeconds }: NewFlow): Buffer {
  const item = Buffer.alloc(NEW_ITEM_BYTES);
  const family = familyOf(source.address);
  if (familyOf(destination.address) !== family)
    throw new RangeError(`${source.address} and ${destination.address} are not of one family`);
  checkPort(source.port, 1);
  checkPort(destination.port, 1);
  item[0] = family;
  item[1] = PROTOCOL_NUMBERS[protocol];
  item[2] = protocol === 'TCP' ? Math.max(TCP_STATES.indexOf(state), 1) : 0;
  item.writeUInt16LE(source.port, 4);
  item.writeUInt16LE(destination.port, 6);
  item.writeUInt32LE(Math.max(1, Math.round(timeoutSeconds)), 8);
  item.set(addressBytes(source.address), 12);
  item.set(addressBytes(destination.address), 28);
  return item;
}

/**
 * Makes connection tracking know of flows that it has not seen from their beginning; those that it knows stay as they
 * are. Resolves to how many it did not know.
 *
 * @param netns path of a network namespace; '' is the current one
 */
export async function createFlows(flows: readonly NewFlow[], netns = ''): Promise<number> {
  let created = 0;
  for (let start = 0; start < flows.length; start += ITEMS_PER_CALL) {
    const items = flows.slice(start, start + ITEMS_PER_CALL).map(packNewFlow);
    created += await loadNative().conntrackCreate(netns, Buffer.concat(items));
  }
  return created;
}

function stateOf(protocol: number, state: number, status: number): string {
  if (protocol === PROTOCOL_NUMBERS.TCP) return TCP_STATES[state] ?? '';
  if (protocol === PROTOCOL_NUMBERS.SCTP) return SCTP_STATES[state] ?? '';
  if ((status & IPS_ASSURED) !== 0) return 'ASSURED';
  return (status & IPS_SEEN_REPLY) === 0 ? 'UNREPLIED' : 'REPLIED';
}

function readFlow(rows: Uint8Array, view: DataView, at: number): Flow {
  const family = rows[at] as Family;
  const protocol = rows[at + 1]!;
  const status = view.getUint32(at + 20, true);
  const addressBytesAt = (offset: number) =>
    formatAddress(rows.slice(at + offset, at + offset + (family === 4 ? 4 : 16)));
  const side = (addresses: number, ports: number, counters: number): FlowSide => ({
    source: addressBytesAt(addresses),
    sourcePort: view.getUint16(at + ports, true),
    destination: addressBytesAt(addresses + 16),
    destinationPort: view.getUint16(at + ports + 2, true),
    packets: view.getBigUint64(at + counters, true),
    bytes: view.getBigUint64(at + counters + 8, true),
  });
  return {
    family,
    protocol: PROTOCOL_NAMES[protocol] ?? String(protocol),
    state: stateOf(protocol, rows[at + 2]!, status),
    original: side(32, 4, 96),
    reply: side(64, 8, 112),
    timeoutSeconds: view.getUint32(at + 12, true),
    mark: view.getUint32(at + 16, true),
    zone: view.getUint16(at + 28, true),
    id: view.getUint32(at + 24, true),
    destinationTranslated: (status & IPS_DST_NAT) !== 0,
    sourceTranslated: (status & IPS_SRC_NAT) !== 0,
  };
}

function packQuery(query: FlowQuery, family: Family): Buffer {
  const filter = Buffer.alloc(ITEM_BYTES);
  filter[0] = family;
  filter[1] = query.protocol ? PROTOCOL_NUMBERS[query.protocol] : 0;
  if (query.only && !query.protocol) throw new RangeError('unanswered flows need a protocol');
  filter[3] = query.only === 'unanswered' ? 1 : 0;
  const { destination } = query;
  if (!destination) return filter;
  if (!query.protocol) throw new RangeError('a destination needs a protocol');
  checkPort(destination.port, 0);
  filter[2] = 1;
  filter.writeUInt16LE(destination.port, 4);
  filter.set(addressBytes(destination.address), 8);
  return filter;
}

async function* listFamily(filter: Buffer, netns: string): AsyncGenerator<readonly Flow[]> {
  const dump = new (loadNative().ConntrackDump)(netns, filter);
  try {
    for (;;) {
      const rows = await dump.next(ROWS_PER_BATCH);
      if (rows.length === 0) return;
      const view = new DataView(rows.buffer, rows.byteOffset, rows.byteLength);
      const flows: Flow[] = [];
      for (let at = 0; at < rows.length; at += ROW_BYTES) flows.push(readFlow(rows, view, at));
      yield flows;
    }
  } finally {
    dump.close();
  }
}

/**
 * The flows of a network namespace, in batches of some hundred. The kernel holds the place in its table, so a
 * slow reader costs no memory; flows that come or go meanwhile may be missed.
 *
 * @param netns path of a network namespace; '' is the current one
 */
export async function* listFlows(query: FlowQuery = {}, netns = ''): AsyncGenerator<readonly Flow[]> {
  const wanted = query.family ?? (query.destination ? familyOf(query.destination.address) : undefined);
  if (wanted && query.destination && familyOf(query.destination.address) !== wanted) return;
  const families: readonly Family[] = wanted ? [wanted] : [4, 6];
  for (const family of families) yield* listFamily(packQuery(query, family), netns);
}

/** Flows in the table of a network namespace, and the most that it may hold (0: the kernel does not say). */
export function countFlows(netns = ''): { readonly entries: number; readonly entriesMax: number } {
  return loadNative().conntrackCount(netns);
}
