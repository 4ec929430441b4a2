/** A table of the nft mode as the kernel holds it, in a form in which two histories can be compared. */
import { parsePickChain } from '../../src/dataplane/nft/chains.ts';
import type { ElementValue } from '../../src/dataplane/nft/elements.ts';
import { comparableSets, readSet } from '../../src/dataplane/nft/kernel-image.ts';
import { addressSize, SET, setLayouts, TABLE } from '../../src/dataplane/nft/layout.ts';
import { NFPROTO, type NftSocket, openNftSocket } from '../../src/dataplane/nft/native.ts';
import { poolNumber } from '../../src/dataplane/nft/packed.ts';
import type { Family } from '../../src/model/records.ts';

const bytes = (text: string) => Buffer.from(text, 'latin1');
const hex = (text: string) => bytes(text).toString('hex');

/** Pool by number: its name, its way of drawing and its backends. Throws where slots and members do not fit. */
function pools(family: Family, sets: ReadonlyMap<number, readonly ElementValue[]>): Map<number, string> {
  const size = addressSize(family);
  const ways = new Map(sets.get(SET.picks)!.map((e) => [e.key.slice(1), e.data]));
  const at = (key: string): [number, number] => {
    const raw = bytes(key.slice(1));
    return [poolNumber(raw.subarray(0, size)), raw.readUInt16BE(size)];
  };
  const group = (set: number) => {
    const groups = new Map<number, Map<number, string>>();
    for (const e of sets.get(set)!) {
      const [number, index] = at(e.key);
      groups.set(number, (groups.get(number) ?? new Map()).set(index, e.data));
    }
    return groups;
  };
  const members = group(SET.members);
  const slots = group(SET.slots);
  const named = new Map<number, string>();
  for (const e of sets.get(SET.pools)!) {
    const number = poolNumber(bytes(e.key.slice(1)));
    const way = parsePickChain(ways.get(e.data) ?? '');
    if (!way) throw new Error(`pool ${e.comment} has no way of drawing`);
    const own = members.get(number) ?? new Map<number, string>();
    const ids =
      way.affinitySeconds > 0
        ? [...(slots.get(number) ?? new Map()).entries()].map(([slot, id]) => [
            slot,
            bytes(id).readUInt16BE(0),
          ])
        : [...own.keys()].map((slot) => [slot, slot]);
    const slotList = ids.map(([slot]) => slot).sort((a, b) => a! - b!);
    if (slotList.some((slot, index) => slot !== index) || slotList.length !== way.size)
      throw new Error(`pool ${e.comment}: slots ${slotList} for ${way.size}`);
    if (new Set(ids.map(([, id]) => id)).size !== own.size || ids.some(([, id]) => !own.has(id!)))
      throw new Error(`pool ${e.comment}: members and slots do not fit`);
    named.set(number, `${e.comment} ${ways.get(e.data)} ${[...own.values()].map(hex).sort()}`);
    members.delete(number);
    slots.delete(number);
  }
  if (members.size + slots.size > 0) throw new Error(`members of no pool: ${[...members.keys()]}`);
  return named;
}

async function familyLines(socket: NftSocket, family: Family): Promise<string[]> {
  const proto = NFPROTO[family];
  const names = await socket.dumpNames(proto, TABLE);
  const lines = [`flags ${names.tableFlags}`];
  lines.push(...[...names.chains].sort().map((name) => `chain ${name}`));
  lines.push(...[...names.sets].sort().map((name) => `set ${name}`));
  const rules = new Map<string, string[]>();
  for (const { chain, hash } of await socket.dumpRules(proto, TABLE))
    rules.set(chain, [...(rules.get(chain) ?? []), hash]);
  for (const [chain, list] of [...rules].sort()) lines.push(`rules ${chain} ${list.join(' ')}`);
  const sets = new Map<number, readonly ElementValue[]>();
  for (const set of comparableSets(setLayouts(family), names)) {
    const { elements, strange } = await readSet(socket, proto, setLayouts(family), TABLE, set);
    if (strange > 0) throw new Error(`${strange} strange elements`);
    sets.set(set, [...elements.values()]);
  }
  const poolName = pools(family, sets);
  lines.push(...[...poolName.values()].map((text) => `pool ${text}`).sort());
  for (const [set, elements] of sets) {
    const { name } = setLayouts(family)[set]!;
    if (set === SET.pools || set === SET.members || set === SET.slots || set === SET.picks) continue;
    if (set === SET.memberIds) {
      // Which ids they are depends on history; that each is a member's does not.
      const members = new Set(sets.get(SET.members)!.map((e) => e.key));
      const size = addressSize(family);
      const own = elements.map(({ key }) => {
        if (!members.has(key)) throw new Error(`member id ${hex(key)} is nobody's`);
        return `${name} ${poolName.get(poolNumber(bytes(key.slice(1)).subarray(0, size)))}`;
      });
      lines.push(...own.sort());
      continue;
    }
    const pooled = set === SET.services || set === SET.outside;
    const data = (e: ElementValue) => {
      const number = pooled ? poolNumber(bytes(e.data)) : 0;
      if (number === 0) return hex(e.data);
      if (!poolName.has(number)) throw new Error(`${name} names pool ${number}, which is not there`);
      return poolName.get(number)!.split(' ').slice(0, 3).join(' ');
    };
    lines.push(...elements.map((e) => `${name} ${hex(e.key)} ${data(e)} ${e.comment}`).sort());
  }
  // Ways of drawing without a pool that uses them would be a leak.
  const ways = sets.get(SET.picks)!.map((e) => e.data);
  lines.push(...ways.sort().map((way) => `way ${way}`));
  return lines.map((line) => `IPv${family} ${line}`);
}

/** Everything in our tables except what depends on history: pool and class numbers, order of slots, member ids. */
export async function tableLines(netns: string): Promise<string[]> {
  const socket = openNftSocket(netns);
  try {
    return [...(await familyLines(socket, 4)), ...(await familyLines(socket, 6))];
  } finally {
    socket.close();
  }
}
