/** `triplane get` in ebpf mode: what the maps hold now, without the agent's help. */
import type { Address, Family, Protocol } from '../../model/records.ts';
import type { NewFlow } from '../../node/conntrack.ts';
import type { EndpointView, FlowTarget, ServiceView } from '../dataplane.ts';
import { ABI, LAYOUTS, readAddress } from './abi.ts';
import { Clock, secondsOf } from './clock.ts';
import { readTimeouts } from './collector.ts';
import { withTables } from './drain.ts';
import {
  type FrontendImage,
  isAddress,
  isGone,
  kindOf,
  masqueradeOf,
  type PoolImage,
  protocolOf,
  readFrontend,
  readFrontends,
  readNames,
  readPool,
} from './image.ts';
import { generationMeta, openMap } from './kernel.ts';
import type { TableMaps } from './maps.ts';
import { servesHere } from './meta.ts';
import { bpfNative } from './native.ts';
import { Generation, generations } from './pins.ts';
import { translatedSockets } from './sockets.ts';

const B = LAYOUTS.tp_backend;
const C = LAYOUTS.tp_conn;

export interface ReadBack {
  readonly services: readonly ServiceView[];
  readonly endpoints: readonly EndpointView[];
}

/** A row of tp_conns. */
export interface ConnectionImage {
  readonly protocol: Protocol;
  readonly client: { readonly address: Address; readonly port: number };
  readonly frontend: { readonly address: Address; readonly port: number };
  readonly backend: { readonly address: Address; readonly port: number };
  readonly masqueradedAs: { readonly address: Address; readonly port: number } | null;
  /** As conntrack would name it; '' for protocols without one. */
  readonly state: string;
  readonly expiresSeconds: number;
  /** A process of this node is the client, and tc translates what it sends. */
  readonly fromNode: boolean;
}

/** The generation in force; null: there is none. */
function current(root: string): Generation | null {
  const newest = generations(root).at(-1);
  return newest === undefined ? null : new Generation(root, newest);
}

/** Whether what is pinned there says that it serves another network namespace. */
export function servesAnother(root: string): boolean {
  const generation = current(root);
  const meta = generation && generationMeta(generation);
  return !!meta && !servesHere(meta);
}

/** null: no maps are pinned there. */
export function readEbpf(root: string): ReadBack | null {
  const generation = current(root);
  return generation && withTables(generation, readTables);
}

export function readTables(maps: TableMaps): ReadBack {
  const names = readNames(maps);
  const services: ServiceView[] = [];
  const endpoints = new Map<string, EndpointView>();
  for (const image of readFrontends(maps)) {
    if (isAddress(image) || isGone(image)) continue;
    const service = names.get(image.service) ?? `#${image.service}`;
    services.push(viewOf(image, service));
    for (const side of [image.inside, image.outside])
      for (const endpoint of endpointsOf(maps, image, side, service))
        endpoints.set(Object.values(endpoint).join(' '), endpoint);
  }
  return { services, endpoints: [...endpoints.values()] };
}

function viewOf(image: FrontendImage, service: string): ServiceView {
  return {
    service,
    kind: kindOf(image.flags),
    address: image.address,
    port: image.port,
    protocol: protocolOf(image.proto),
    inside: answerText(image.inside),
    outside: answerText(image.outside),
    affinitySeconds: image.affinitySeconds,
    masquerade: masqueradeOf(image.flags),
    sourceRanges: (image.flags & ABI.F_GUARDED) !== 0 ? image.rangeCount : 0,
  };
}

function answerText({ answer, count }: PoolImage): string {
  if (answer === ABI.DROP || answer === ABI.GONE) return 'drop';
  if (answer === ABI.REJECT || count === 0) return 'reject';
  return count === 1 ? '1 backend' : `${count} backends`;
}

function endpointsOf(
  maps: TableMaps,
  { family, proto }: FrontendImage,
  pool: PoolImage,
  service: string,
): EndpointView[] {
  const kind = pool.answer === ABI.LOCAL ? 'local' : 'cluster';
  return readPool(maps, pool).map((record) => ({
    service,
    pool: kind,
    ...backendAt(maps, record, family),
    protocol: protocolOf(proto),
  }));
}

function backendAt(maps: TableMaps, record: number, family: Family): { address: Address; port: number } {
  const at = record * B.bytes;
  return {
    address: readAddress(maps.backends.bytes, at, family),
    port: maps.backends.view.getUint16(at + B.members.port),
  };
}

/** Connections of all generations that still have some: those of packets, and those of sockets. */
export async function readConnections(root: string): Promise<Omit<ConnectionImage, 'fromNode'>[]> {
  const found: Omit<ConnectionImage, 'fromNode'>[] = [];
  for (const number of generations(root)) {
    const generation = new Generation(root, number);
    const images = withTables(generation, readTableConnections) ?? [];
    for (const { fromNode: _, ...row } of images) found.push(row);
    const peers = openMap(generation, 'tp_sock_peers');
    if (!peers) continue;
    try {
      // A socket's connection has no time-out: it ends when the socket does.
      for (const socket of await translatedSockets(peers.fd))
        found.push({ ...socket, masqueradedAs: null, expiresSeconds: 0 });
    } finally {
      bpfNative().bpfClose(peers.fd);
    }
  }
  return found;
}

export function readTableConnections(maps: TableMaps, hz: number): ConnectionImage[] {
  const clock = new Clock(hz);
  try {
    const now = clock.ticks();
    const timeouts = readTimeouts();
    const found: ConnectionImage[] = [];
    const { words, entries } = maps.conns;
    for (let index = 0; index < entries * ABI.CONN_WAYS; index++) {
      const phase = words[(index * C.bytes) / 4]! & 15;
      if (phase !== ABI.LIVE && phase !== ABI.DYING) continue;
      const connection = connectionAt(maps, index, (ticks) => secondsOf(now - ticks, hz), timeouts);
      if (connection) found.push(connection);
    }
    return found;
  } finally {
    clock.close();
  }
}

const UDP = 17;
const SCTP = 132;
const SEEN = { fin: 2, rst: 4, more: 8 } as const;

/** As stateOf(). */
function sctpStateOf(forward: number, reply: number): [string, number] {
  if (((forward | reply) & SEEN.rst) !== 0) return ['CLOSED', 12];
  if ((forward & reply & SEEN.fin) !== 0) return ['SHUTDOWN_ACK_SENT', 11];
  if (((forward | reply) & SEEN.fin) !== 0)
    return [(forward & SEEN.fin) !== 0 ? 'SHUTDOWN_SENT' : 'SHUTDOWN_RECD', 10];
  if ((forward & SEEN.more) !== 0) return ['ESTABLISHED', 9];
  return ['COOKIE_WAIT', 8];
}

/** The name of a state and its place among the time-outs, as native/bpf_collect.cc reckons it. */
function stateOf(proto: number, forward: number, reply: number): [string, number] {
  if (proto === UDP) return ['', reply === 0 ? 6 : 7];
  if (proto === SCTP) return sctpStateOf(forward, reply);
  if (((forward | reply) & SEEN.rst) !== 0) return ['CLOSE', 5];
  if ((forward & reply & SEEN.fin) !== 0) return ['TIME_WAIT', 4];
  if (((forward | reply) & SEEN.fin) !== 0)
    return [(forward & SEEN.fin) !== 0 ? 'FIN_WAIT' : 'CLOSE_WAIT', 3];
  if ((forward & SEEN.more) !== 0) return ['ESTABLISHED', 2];
  return reply === 0 ? ['SYN_SENT', 0] : ['SYN_RECV', 1];
}

function connectionAt(
  maps: TableMaps,
  index: number,
  idleSeconds: (lastSeen: number) => number,
  timeouts: readonly number[],
): ConnectionImage | null {
  const at = index * C.bytes;
  const { bytes, view } = maps.conns;
  const m = C.members;
  const family = bytes[at + m.family] as Family;
  const frontend = readFrontend(maps, view.getUint32(at + m.frontend, true));
  const record = view.getUint32(at + m.backend, true);
  if (!frontend || record >= maps.backends.entries || (family !== 4 && family !== 6)) return null;
  const proto = bytes[at + m.proto]!;
  const natPort = view.getUint16(at + m.nat_port);
  // Without masquerade it is the client's port alone that is another one.
  const source = (bytes[at + m.flags]! & ABI.C_MASQ) !== 0 ? m.nat_addr : m.client;
  const [state, timeout] = stateOf(proto, bytes[at + m.seen_forward]!, bytes[at + m.seen_reply]!);
  const idle = Math.max(0, idleSeconds(view.getUint32(at + m.last_seen, true)));
  return {
    protocol: protocolOf(proto),
    client: { address: readAddress(bytes, at + m.client, family), port: view.getUint16(at + m.client_port) },
    frontend: { address: frontend.address, port: frontend.port },
    backend: backendAt(maps, record, family),
    masqueradedAs: natPort === 0 ? null : { address: readAddress(bytes, at + source, family), port: natPort },
    state,
    expiresSeconds: Math.max(0, Math.round(timeouts[timeout]! - idle)),
    fromNode: (bytes[at + m.flags]! & ABI.C_NODE) !== 0,
  };
}

/** What the node's own processes have open through tc, as netfilter sees it: with the frontend. */
export function nodeFlows(maps: TableMaps, hz: number): NewFlow[] {
  const own = readTableConnections(maps, hz).filter(({ fromNode }) => fromNode);
  return own.map(({ protocol, client, frontend, state, expiresSeconds }) => ({
    ...{ protocol, source: client, destination: frontend, state, timeoutSeconds: expiresSeconds },
  }));
}

/** The frontends of those. */
export function nodeTargets(maps: TableMaps, hz: number): FlowTarget[] {
  return nodeFlows(maps, hz).map(({ protocol, destination }) => ({ protocol, ...destination }));
}
