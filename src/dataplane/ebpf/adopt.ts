/**
 * Taking over the tables that a predecessor left: what they hold becomes the compiler's memory, so that the desired
 * state that follows is a change like any other, and connections, affinity and established pools go on.
 */
import type { DesiredPort, Frontend } from '../../model/desired.ts';
import type { Address } from '../../model/records.ts';
import { ABI } from './abi.ts';
import type { Compiler } from './compiler.ts';
import {
  type FrontendEntry,
  frontendKey,
  type Guard,
  NO_POOL,
  type PoolEntry,
  type PortEntry,
} from './entries.ts';
import {
  answerOf,
  type FrontendImage,
  guardFamilies,
  isAddress,
  isGone,
  kindOf,
  masqueradeOf,
  type PoolImage,
  protocolOf,
  readFrontends,
  readNames,
  readPool,
  readRanges,
} from './image.ts';

/** `referred`: whether a connection refers to the record of a frontend, of a backend. */
export interface References {
  readonly frontend: (index: number) => boolean;
  readonly backend: (index: number) => boolean;
}

export function adoptTables(compiler: Compiler, references: References): void {
  const images = readFrontends(compiler.maps);
  const names = readNames(compiler.maps);
  const guards = adoptGuards(compiler, images);
  const byService = new Map<number, [FrontendImage, FrontendEntry][]>();
  const addresses = new Map<string, FrontendEntry>();
  for (const image of images) {
    const entry = entryOf(image);
    if (!compiler.frontends.adopt(entry)) continue;
    if (isAddress(image)) addresses.set(image.address, entry);
    else if (isGone(image) || !names.has(image.service)) compiler.frontends.withdraw(entry);
    else byService.set(image.service, [...(byService.get(image.service) ?? []), [image, entry]]);
  }
  for (const [id, rows] of byService) {
    if (!compiler.ids.reserve(id)) continue;
    adoptPort(compiler, id, names.get(id)!, rows, guards, addresses);
  }
  for (const entry of addresses.values()) if (entry.uses === 0) compiler.frontends.remove(entry);
  for (const guard of guards.values()) {
    guard.uses++;
    compiler.guards.release(guard);
  }
  compiler.guards.bury();
  dropStrayNames(compiler, names);
  // A predecessor that died while it took a service away may have left its NodePorts, which nobody could bind to.
  compiler.nodePorts.repair();
  for (let index = 0; index < compiler.backends.records.limit; index++)
    if (references.backend(index)) compiler.backends.adoptGone(index);
}

function entryOf({ index, slot, place, address, port, proto, family }: FrontendImage): FrontendEntry {
  const key = frontendKey(address, port, proto);
  return { index, slot, place, key, address, port, proto, family, owner: null, uses: 0 };
}

function adoptGuards(compiler: Compiler, images: readonly FrontendImage[]): Map<number, Guard> {
  const families = guardFamilies(images);
  const guards = new Map<number, Guard>();
  const ranges = readRanges(compiler.maps, (guard) => families.get(guard));
  for (const [id, family] of families) {
    const guard = compiler.guards.adopt(id, family, ranges.get(id) ?? []);
    if (guard) guards.set(id, guard);
  }
  return guards;
}

/** Names of ids that no frontend has: their service is gone, or an agent died before it used them. */
function dropStrayNames(compiler: Compiler, names: ReadonlyMap<number, string>): void {
  for (const id of names.keys()) {
    if (compiler.ids.isUsed(id)) continue;
    compiler.maps.names.remove(new Uint8Array(Uint32Array.of(id).buffer));
  }
}

function adoptPort(
  compiler: Compiler,
  id: number,
  name: string,
  rows: readonly (readonly [FrontendImage, FrontendEntry])[],
  guards: ReadonlyMap<number, Guard>,
  addresses: ReadonlyMap<string, FrontendEntry>,
): void {
  const [first] = rows[0]!;
  const words = rows.flatMap(([{ inside, outside }]) => [inside, outside]);
  const cluster = adoptPool(compiler, words, ABI.CLUSTER);
  const local = adoptPool(compiler, words, ABI.LOCAL);
  const backendsOf = ({ records }: PoolEntry) => records.map((record) => compiler.backends.read(record));
  const used = new Set<FrontendEntry>();
  for (const [image] of rows) {
    const entry = kindOf(image.flags) === 'ClusterIP' ? addresses.get(image.address) : undefined;
    if (entry) used.add(entry);
  }
  for (const entry of used) entry.uses++;
  const guardOf = ({ flags, guard }: FrontendImage) =>
    (flags & ABI.F_GUARDED) !== 0 ? (guards.get(guard) ?? null) : null;
  const desired: DesiredPort = {
    name,
    family: first.family,
    protocol: protocolOf(first.proto),
    affinitySeconds: first.affinitySeconds,
    cluster: backendsOf(cluster),
    local: backendsOf(local),
    frontends: rows.map(([image]) => frontendOf(image, guardOf(image))),
    settings: {},
  };
  const service = name.split(':')[0]!;
  const port: PortEntry = {
    id,
    service,
    desired,
    cluster,
    local,
    frontends: rows.map(([, entry]) => entry),
    guards: rows.map(([image]) => guardOf(image)),
    addresses: [...used],
  };
  for (const [, entry] of rows) entry.owner = port;
  for (const guard of port.guards) if (guard) guard.uses++;
  compiler.nodePorts.add(port);
  compiler.services.set(service, [...(compiler.services.get(service) ?? []), port]);
}

/** The pool of a kind. A predecessor that died between two flips left two generations: the first one stays. */
function adoptPool(compiler: Compiler, words: readonly PoolImage[], answer: number): PoolEntry {
  let kept: PoolEntry = NO_POOL;
  const seen = new Set<number>();
  for (const word of words) {
    if (word.answer !== answer || word.count === 0 || seen.has(word.base)) continue;
    seen.add(word.base);
    const records = readPool(compiler.maps, word);
    if (records.length < word.count || !compiler.pools.reserve(word.base, word.count)) continue;
    if (kept === NO_POOL && records.every((record) => compiler.backends.adopt(record))) {
      kept = { records, base: word.base };
      continue;
    }
    // Programs go on using it until the desired state has been written.
    for (const record of records) compiler.backends.adoptGone(record);
    compiler.grave.add(() => compiler.pools.release(word.base, word.count));
  }
  return kept;
}

function frontendOf(image: FrontendImage, guard: Guard | null): Frontend {
  return {
    address: image.address as Address,
    port: image.port,
    protocol: protocolOf(image.proto),
    kind: kindOf(image.flags),
    inside: answerOf(image.inside),
    outside: answerOf(image.outside),
    masquerade: masqueradeOf(image.flags),
    sourceRanges: guard ? guard.cidrs : null,
  };
}
