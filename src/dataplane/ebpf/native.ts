/** The addon's BPF functions. File descriptors are plain numbers; who gets one closes it. */
import { TriplaneError } from '../../model/errors.ts';
import { loadNative, packageRoot } from '../../node/native.ts';
import { refusalCode } from '../../node/privilege.ts';
import { isSwitchedOff } from '../../node/switches.ts';
import { groupsOf, TAILS } from './program-groups.ts';

/** A map of a loaded object; the descriptor lives as long as the object. */
export interface MapHandle {
  readonly fd: number;
  readonly type: number;
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly entries: number;
}

export interface BpfObject {
  maps(): Record<string, MapHandle>;
  /** Loads programs by name, each group on a thread of its own: all of them, or none. */
  load(groups: readonly (readonly string[])[]): Promise<void>;
  /** File descriptors of the programs that were loaded. */
  programs(): Record<string, number>;
  close(): void;
}

export interface OpenSpec {
  readonly path: string;
  /** Maps are pinned here under their names, and adopted if they are there already. Empty: no pins. */
  readonly pinRoot: string;
  /** Maps that are never pinned. */
  readonly unpinned?: readonly string[];
  /** Entries of the maps that are not to have what the object says. */
  readonly maps: Readonly<Record<string, number>>;
  /** The whole of .rodata; empty: as built. */
  readonly rodata: Uint8Array;
}

export interface LoadSpec extends OpenSpec {
  /** Programs that are not loaded. */
  readonly without: readonly string[];
}

export interface TestRun {
  readonly verdict: number;
  /** Mean time of one run. */
  readonly ns: number;
  readonly data: Uint8Array;
  readonly context: Uint8Array;
}

export interface BpfNative {
  bpfOpen(spec: OpenSpec): Promise<BpfObject>;
  bpfPrograms(path: string): string[];
  bpfMapUpdate(fd: number, key: Uint8Array, value: Uint8Array, flags: number): void;
  bpfMapLookup(fd: number, key: Uint8Array, valueBytes: number): Uint8Array | null;
  bpfMapDelete(fd: number, key: Uint8Array): boolean;
  bpfMapUpdateBatch(fd: number, keys: Uint8Array, values: Uint8Array, count: number): void;
  bpfMapDeleteBatch(fd: number, keys: Uint8Array, count: number): number;
  bpfMapKeys(fd: number, keyBytes: number, most: number): Uint8Array;
  bpfMapMmap(fd: number, bytes: number): ArrayBuffer;
  bpfTestRun(
    fd: number,
    data: Uint8Array,
    context: Uint8Array,
    outBytes: number,
    repeat: number,
    flags?: number,
  ): TestRun;
  bpfLinkDevice(fd: number, ifindex: number, attachType: number, flags: number, netns: string): number;
  bpfXdpMode(ifindex: number, netns: string): number;
  bpfLinkCgroup(fd: number, path: string, attachType: number): number;
  bpfLinkUpdate(link: number, program: number): void;
  bpfLinkDetach(link: number): void;
  bpfClsactAttach(
    fd: number,
    ifindex: number,
    point: number,
    priority: number,
    handle: number,
    netns: string,
  ): void;
  bpfClsactDetach(
    fd: number,
    ifindex: number,
    point: number,
    priority: number,
    handle: number,
    netns: string,
  ): boolean;
  bpfPin(fd: number, path: string): void;
  bpfGet(path: string): number;
  bpfClose(fd: number): void;
  bpfHashFrontend(seed: Uint8Array, keys: Uint8Array, out: Uint8Array): void;
  bpfKernelHas(name: string, module: string): boolean;
  bpfStructs(path: string): Record<string, { bytes: number; members: Record<string, number> }>;
}

export function bpfNative(): BpfNative {
  return loadNative() as unknown as BpfNative;
}

/** Whether programs can ask the kernel's connection tracking (Knobs.ctLookup): since 6.0, nf_conntrack loaded. */
export function kernelOffersConntrack(): boolean {
  if (isSwitchedOff('ct-lookup')) return false;
  return ['bpf_skb_ct_lookup', 'bpf_xdp_ct_lookup'].every((name) =>
    bpfNative().bpfKernelHas(name, 'nf_conntrack'),
  );
}

/** Whether programs may read the kernel's own struct of a packet without a call (Knobs.kernelContext): since 6.2. */
export function kernelOffersContext(): boolean {
  return bpfNative().bpfKernelHas('bpf_cast_to_kern_ctx', 'nf_conntrack');
}

/** The object that `npm run build` makes of bpf/. */
export function bpfObjectPath(): string {
  return `${packageRoot()}/build/bpf/triplane.o`;
}

/** What the kernel's verifier had to say, in the lines that a person reads first: the last ones. */
export function verifierSummary(log: string, lines = 12): string {
  const all = log.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('processed '));
  return all.slice(-lines).join('\n');
}

/**
 * An object's maps, and no programs yet. A refusal is TP_NO_FEATURE (the kernel does not take them), TP_NO_PRIVILEGE or
 * TP_KERNEL_REFUSED (for lack of memory), with what libbpf said in the message's `cause`.
 */
export function openBpf(spec: OpenSpec): Promise<BpfObject> {
  return bpfNative().bpfOpen(spec).catch(refuse);
}

/**
 * The programs of an object that openBpf() gave, but for some. All are loaded or none, which may be asked for again
 * with fewer. A refusal is TP_NO_FEATURE (the verifier or the kernel does not take a program), TP_NO_PRIVILEGE or
 * TP_KERNEL_REFUSED (for lack of memory), with the end of the verifier's log in the message's `cause`.
 */
export async function loadInto(object: BpfObject, { path, without }: LoadSpec): Promise<void> {
  const wanted = bpfNative()
    .bpfPrograms(path)
    .filter((name) => !without.includes(name));
  await object.load(groupsOf(wanted)).catch(refuse);
  fillTails(object);
}

/** Jumps lead nowhere before. */
function fillTails(object: BpfObject): void {
  const tails = object.maps().tp_tails;
  const programs = object.programs();
  for (const [name, place] of tails ? TAILS : []) {
    const program = programs[name];
    if (program === undefined) continue;
    bpfNative().bpfMapUpdate(tails!.fd, wordBytes(place), wordBytes(program), 0);
  }
}

function wordBytes(word: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(word).buffer);
}

/** Both of it: an object with its maps and programs. */
export async function loadBpf(spec: LoadSpec): Promise<BpfObject> {
  const object = await openBpf(spec);
  try {
    await loadInto(object, spec);
    return object;
  } catch (error) {
    object.close();
    throw error;
  }
}

function refuse(error: unknown): never {
  const { code, said, log, message } = error as Error & { code?: string; said?: string; log?: string };
  const refused = `the kernel does not take the BPF programs (${message})`;
  const detail = [said ?? '', verifierSummary(log ?? '')].join('\n').trim();
  const cause = Object.assign(new Error(detail === '' ? message : detail), { code });
  // The verifier's EACCES is a word about the program.
  throw new TriplaneError(code === 'EACCES' ? 'TP_NO_FEATURE' : refusalCode(code), refused, { cause });
}
