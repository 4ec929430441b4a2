/** What sticky services remember of their clients, between the kernel's map `affinity` and words that every mode knows. */
import { addressBytes, familyOf, formatAddress } from '../../model/address.ts';
import type { Family, Protocol } from '../../model/records.ts';
import type { AffinityView } from '../dataplane.ts';
import { type ElementValue, readElements } from './elements.ts';
import type { FamilyKernel } from './family-kernel.ts';
import { addressSize, SET } from './layout.ts';
import { NFPROTO, type NftSocket } from './native.ts';
import { NO_OWNER, OP, PackedWriter, TIMED } from './packed.ts';
import { backendKey, type PoolState } from './pool.ts';
import type { Scheme } from './scheme.ts';

/** Elements in one transaction. */
const BATCH = 1000;
/** What the kernel learned itself meanwhile is refused, and left out of the next try. */
const TRIES = 3;

/** As the kernel has it now, without anybody's memory. */
export async function readAffinities(
  socket: NftSocket,
  family: Family,
  scheme: Scheme,
): Promise<AffinityView[]> {
  const proto = NFPROTO[family];
  const layouts = scheme.layouts(family);
  const read = async (set: number): Promise<ElementValue[]> => {
    const { packed } = await socket.dumpElements(proto, scheme.table, layouts, set, false);
    return [...readElements(layouts, set, packed)];
  };
  const remembered = await read(SET.affinity);
  if (remembered.length === 0) return [];
  const size = addressSize(family);
  const names = new Map((await read(SET.pools)).map((pool) => [pool.key.slice(1), pool.comment]));
  const members = new Map((await read(SET.members)).map((member) => [member.key.slice(1), member.data]));
  return remembered.flatMap(({ key, data, comment }) => {
    const pool = key.slice(1 + size);
    const [port, protocol] = (names.get(pool) ?? '').split(' ');
    // The id as it stands in a key: padded to four bytes.
    const member = members.get(`${pool}${data}\0\0`);
    if (!port || !protocol || member === undefined) return [];
    const backend = Buffer.from(member, 'latin1');
    return {
      ...{ port, family, protocol: protocol as Protocol },
      client: formatAddress(Buffer.from(key.slice(1, 1 + size), 'latin1')),
      backend: { address: formatAddress(backend.subarray(0, size)), port: backend.readUInt16BE(size) },
      secondsLeft: Number(comment) / 1000,
    };
  });
}

/** Writes into one family's table what its pools have a member for. */
export async function writeAffinities(kernel: FamilyKernel, views: readonly AffinityView[]): Promise<void> {
  const wanted = new Map<string, AffinityView[]>();
  for (const view of views) {
    if (view.family !== kernel.family || familyOf(view.client) !== view.family) continue;
    const key = `${view.port} ${view.protocol}`;
    wanted.set(key, [...(wanted.get(key) ?? []), view]);
  }
  const elements: Uint8Array[] = [];
  for (const [, state] of kernel.table.states()) {
    for (const { port, cluster, local } of 'ports' in state ? state.ports : []) {
      for (const view of wanted.get(`${port.name} ${port.protocol}`) ?? [])
        for (const pool of [cluster, local]) {
          const element = pool && elementOf(kernel.family, pool, view, port.affinitySeconds);
          if (element) elements.push(element);
        }
    }
  }
  for (let from = 0; from < elements.length; from += BATCH)
    await send(kernel, elements.slice(from, from + BATCH));
}

/** The body of an element: flags, key, data, times; null: the backend is no member of the pool. */
function elementOf(
  family: Family,
  { number, slots, ids }: PoolState,
  { client, backend, secondsLeft }: AffinityView,
  timeoutSeconds: number,
): Uint8Array | null {
  const slot = slots.findIndex((one) => backendKey(one) === backendKey(backend));
  const id = ids?.[slot];
  if (id === undefined || timeoutSeconds === 0) return null;
  const leftMs = Math.round(1000 * Math.min(secondsLeft, timeoutSeconds));
  if (leftMs <= 0) return null;
  const out = new PackedWriter(128);
  out.u8(SET.affinity);
  out.u8(TIMED);
  out.raw(addressBytes(client));
  out.pool(family, number);
  out.lonePort(id);
  out.text(`${timeoutSeconds * 1000} ${leftMs}`);
  return Buffer.from(out.take());
}

async function send(kernel: FamilyKernel, elements: readonly Uint8Array[]): Promise<void> {
  const left = new Map(elements.entries());
  for (let tried = 0; tried < TRIES && left.size > 0; tried++) {
    const out = new PackedWriter(elements.length * 64);
    for (const [owner, element] of left) {
      out.u8(OP.addElement);
      out.u32(owner);
      out.raw(element);
    }
    const { refused } = await kernel.socket.commit(
      kernel.proto,
      kernel.name,
      kernel.table.layouts,
      out.take(),
      true,
    );
    if (refused.length === 0) return;
    for (const { owner } of refused) {
      if (owner < 0 || owner === NO_OWNER) return;
      left.delete(owner);
    }
  }
}
