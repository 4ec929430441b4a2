/** Loading the programs over new maps or over those that a predecessor pinned. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { TriplaneError } from '../../model/errors.ts';
import { type Capability, refusalCode, requireCapability } from '../../node/privilege.ts';
import { isSwitchedOff } from '../../node/switches.ts';
import type { TrafficSettings } from '../traffic.ts';
import { ABI, LAYOUTS } from './abi.ts';
import { SOCK_COUNTERS } from './attach-types.ts';
import { kernelHz } from './clock.ts';
import { encodeKnobs, mapEntries, newSeed, type PortRange, type Sizes } from './knobs.ts';
import { TableMaps } from './maps.ts';
import {
  isOurLayout,
  type Meta,
  netnsCookie,
  netnsIdentity,
  readMeta,
  servesHere,
  writeMeta,
} from './meta.ts';
import {
  type BpfObject,
  bpfNative,
  bpfObjectPath,
  kernelOffersConntrack,
  kernelOffersContext,
  loadInto,
  type MapHandle,
  type OpenSpec,
  openBpf,
} from './native.ts';
import { lifeNative } from './native-life.ts';
import { isOrphaned } from './orphans.ts';
import { omissions, type Part, partsSwitchedOff, programsOf } from './parts.ts';
import { Generation, generations } from './pins.ts';
import { mapArray } from './tables.ts';
import { type TrafficKnobs, TrafficTable, trafficKnobs } from './traffic-table.ts';

/** Numbers of linux/bpf.h. */
/** What loading, attaching and reading takes; test/agent/capabilities.test.ts runs with exactly these. */
const CAPABILITIES: readonly Capability[] = ['CAP_NET_ADMIN', 'CAP_BPF', 'CAP_PERFMON'];
const SCHED_CLS = 3;
const CGROUP_SOCK_ADDR = 18;
const HELPERS = {
  'netns-cookie': [CGROUP_SOCK_ADDR, 122],
  'redirect-neigh': [SCHED_CLS, 152],
  'set-retval': [CGROUP_SOCK_ADDR, 187],
} as const;
export type Helper = keyof typeof HELPERS;

/** A helper that the programs use where there is one, and do without where there is none. */
export function hasHelper(helper: Helper): boolean {
  const [type, number] = HELPERS[helper];
  return !isSwitchedOff(helper) && lifeNative().bpfHasHelper(type, number);
}

/** Maps that each agent makes anew. */
export const UNPINNED: readonly string[] = ['tp_traffic'];

export interface Loaded {
  readonly generation: Generation;
  readonly object: BpfObject;
  readonly maps: TableMaps;
  readonly meta: Meta;
  /** 'adopted': the maps hold what a predecessor wrote. */
  readonly origin: 'adopted' | 'new';
  /** Numbers of older generations that still carry connections. */
  readonly older: readonly number[];
  /**
   * Settled when the programs are loaded, which takes longer than all else: the parts of them that this kernel does
   * not take, with the reason. Rejects with TP_NO_FEATURE, TP_NO_PRIVILEGE or, for lack of memory, TP_KERNEL_REFUSED.
   */
  readonly omitted: Promise<ReadonlyMap<Part, string>>;
  /** Whether the programs can ask the kernel's connection tracking. */
  readonly ctLookup: Offer;
  /** null: nothing is counted. */
  readonly counting: TrafficTable | null;
}

type Offer = 'offered' | 'not offered';

export interface LoadOptions {
  readonly root: string;
  readonly sizes: Sizes;
  readonly natPorts: readonly PortRange[];
  readonly traffic: TrafficSettings;
}

/** A map by its pin; null: there is none. The caller owns the descriptor. */
export function openMap(generation: Generation, name: string): MapHandle | null {
  const file = path.join(generation.maps, name);
  const fd = existsSync(file) ? bpfNative().bpfGet(file) : -1;
  return fd < 0 ? null : { ...lifeNative().bpfMapInfo(fd), fd };
}

/** As generationMeta(), of a generation whose tables this version can read. */
export function tablesMeta(generation: Generation): Meta | null {
  const meta = generationMeta(generation);
  return meta && isOurLayout(meta) ? meta : null;
}

/** What a generation's maps say of themselves, whatever their layout; null: nothing. */
export function generationMeta(generation: Generation): Meta | null {
  const handle = openMap(generation, 'tp_meta');
  if (!handle) return null;
  try {
    return handle.valueBytes === LAYOUTS.tp_meta.bytes ? readMeta(mapArray(handle)) : null;
  } finally {
    bpfNative().bpfClose(handle.fd);
  }
}

/** Folders of pins that serve this network namespace, whatever --bpf-root says. */
export function findRoots(): string[] {
  return rootsOf((meta) => servesHere(meta));
}

/** Folders of pins whose network namespace is gone: nobody is left in it who could clean up. */
export function findOrphans(): string[] {
  return rootsOf((meta) => isOrphaned(meta.root, meta));
}

/** By what is pinned now: maps of the same folder that are gone from it may still be on their way out. */
function rootsOf(wanted: (meta: Meta) => boolean): string[] {
  const roots = new Set<string>();
  for (const id of lifeNative().bpfMapsNamed('tp_meta')) {
    const fd = lifeNative().bpfMapById(id);
    if (fd < 0) continue;
    const handle = { ...lifeNative().bpfMapInfo(fd), fd };
    const meta = handle.valueBytes === LAYOUTS.tp_meta.bytes ? readMeta(mapArray(handle)) : null;
    bpfNative().bpfClose(fd);
    if (meta) roots.add(meta.root);
  }
  return [...roots].filter((root) => {
    const pinned = generations(root).map((number) => generationMeta(new Generation(root, number)));
    return pinned.some((meta) => meta?.complete && wanted(meta));
  });
}

const sameShape = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);

/** The generation that can be taken over: the newest one, if it is complete and of the sizes that are asked for. */
function adoptable({ root, sizes, natPorts }: LoadOptions): { generation: Generation; meta: Meta } | null {
  const newest = generations(root).at(-1);
  if (newest === undefined) return null;
  const generation = new Generation(root, newest);
  const meta = tablesMeta(generation);
  const same = meta?.complete && sameShape(meta.sizes, sizes) && sameShape(meta.natPorts, natPorts);
  return same ? { generation, meta } : null;
}

/** Two agents over one set of maps would take each other's services away. */
function refuseForeign(root: string): void {
  for (const number of generations(root)) {
    const meta = generationMeta(new Generation(root, number));
    if (!meta || servesHere(meta)) continue;
    const what = isOrphaned(root, meta)
      ? 'served a network namespace that is gone: run triplane cleanup'
      : 'serve another network namespace: give each its own --bpf-root, or run triplane cleanup there';
    throw new TriplaneError('TP_LOCKED', `the pins in ${root} ${what}`);
  }
}

/** The maps, with the programs on their way. Throws TP_NO_FEATURE, TP_NO_PRIVILEGE, TP_KERNEL_REFUSED or TP_LOCKED. */
export async function loadKernel(options: LoadOptions): Promise<Loaded> {
  refuseForeign(options.root);
  const found = adoptable(options);
  const older = generations(options.root).filter((number) => {
    if (number === found?.generation.number) return false;
    const generation = new Generation(options.root, number);
    // What was never finished never carried anything.
    if (generationMeta(generation)?.complete === false) generation.remove();
    return existsSync(generation.dir);
  });
  const number = found ? found.generation.number : (older.at(-1) ?? 0) + 1;
  const generation = new Generation(options.root, number);
  const before = older.map((one) => generationMeta(new Generation(options.root, one)));
  const meta = found?.meta ?? newMeta(options, before.findLast((one) => one !== null) ?? null);
  generation.make();
  const ctLookup = offerOfConntrack();
  const traffic = trafficKnobs(options.traffic, meta.sizes);
  const spec = {
    path: bpfObjectPath(),
    pinRoot: generation.maps,
    unpinned: UNPINNED,
    maps: { ...mapEntries(meta.sizes), tp_traffic: traffic ? traffic.stride * traffic.parts : 1 },
    rodata: knobsOf(meta, ctLookup, traffic),
  };
  const object = await openBpf(spec).catch((error: unknown) => {
    if (!found) generation.remove();
    throw error;
  });
  const maps = TableMaps.of(object, seedOf(meta));
  if (!found && isNameless(maps)) {
    object.close();
    generation.remove();
    throw new TriplaneError(
      'TP_NO_FEATURE',
      'libbpf gives maps no names since memory was short: start again',
    );
  }
  // Not yet complete, but from now on it says whose it is.
  if (!found) writeMeta(maps.meta, meta);
  const omitted = loadPrograms(
    object,
    spec,
    options.traffic.level === 'traffic' ? [] : Object.keys(SOCK_COUNTERS),
  );
  // Whoever waits for it hears of it then.
  omitted.catch(() => {});
  const counting = traffic && new TrafficTable(mapArray(object.maps().tp_traffic!).bytes, traffic);
  const origin = found ? 'adopted' : 'new';
  return { generation, object, maps, meta, origin, older, omitted, ctLookup, counting };
}

/**
 * libbpf asks once in a process's life whether the kernel takes names, and a moment without memory is a no to it. Maps
 * without names are found by nobody later: only a new process helps.
 */
function isNameless({ handles }: TableMaps): boolean {
  return lifeNative().bpfMapInfo(handles.tp_meta!.fd).name === '';
}

/**
 * All programs of an opened object; where the kernel refuses them, those of fewer parts. Resolves to the parts that are
 * missing and why. Rejects with what the kernel said to the fewest. `unused`: programs that nobody wants.
 */
export async function loadPrograms(
  object: BpfObject,
  spec: OpenSpec,
  unused: readonly string[] = [],
): Promise<ReadonlyMap<Part, string>> {
  const off = partsSwitchedOff();
  let refusal: unknown = null;
  for (const parts of omissions(off)) {
    try {
      await loadInto(object, { ...spec, without: [...programsOf(parts), ...unused] });
      const reason = (part: Part) => (off.includes(part) ? 'switched off' : messageOf(refusal));
      return new Map(parts.map((part) => [part, reason(part)]));
    } catch (error) {
      if ((error as { code?: string }).code !== 'TP_NO_FEATURE') throw error;
      refusal = error;
    }
  }
  throw refusal;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export function seedOf(meta: Pick<Meta, 'seed'>): Uint8Array {
  return Uint8Array.from(Buffer.from(meta.seed, 'hex'));
}

/** What was changed in the node's settings was changed by whoever came first. */
function newMeta({ root, sizes, natPorts }: LoadOptions, before: Meta | null): Meta {
  return {
    layout: ABI.LAYOUT,
    root,
    netns: netnsIdentity(),
    cookie: netnsCookie(''),
    sizes,
    natPorts,
    seed: Buffer.from(newSeed()).toString('hex'),
    hz: readHz(),
    complete: false,
    reservedBefore: before?.reservedBefore ?? null,
    acceptLocalBefore: before?.acceptLocalBefore ?? null,
    clsact: [],
  };
}

/** Throws TP_NO_FEATURE or TP_NO_PRIVILEGE where no program of any kind can be loaded, TP_KERNEL_REFUSED where not now. */
export function requireBpf(): void {
  for (const capability of CAPABILITIES) requireCapability(capability, 'load BPF programs');
  readHz();
}

function readHz(): number {
  try {
    return kernelHz();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new TriplaneError(refusalCode(code), `BPF programs cannot be used: ${message}`, { cause: error });
  }
}

/** Reads the kernel's types, which takes some milliseconds. */
export function offerOfConntrack(): Offer {
  return kernelOffersConntrack() ? 'offered' : 'not offered';
}

/** What the programs are built for: sizes, and what this kernel offers them. */
export function knobsOf(
  meta: Pick<Meta, 'sizes' | 'natPorts' | 'seed' | 'hz'>,
  ctLookup: Offer,
  traffic: TrafficKnobs | null = null,
): Uint8Array {
  return encodeKnobs({
    ...(traffic ? { traffic } : {}),
    sizes: meta.sizes,
    natPorts: meta.natPorts,
    seed: seedOf(meta),
    hz: meta.hz,
    setRetval: hasHelper('set-retval'),
    netnsCookie: hasHelper('netns-cookie'),
    redirectNeigh: hasHelper('redirect-neigh'),
    partialChecksums: true,
    ctLookup: ctLookup === 'offered',
    kernelContext: kernelOffersContext(),
  });
}
