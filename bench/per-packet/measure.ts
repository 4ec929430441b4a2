/**
 * What a packet costs: by BPF_PROG_TEST_RUN over a wrapper (wrapper.c) that makes each packet anew. Connections are made
 * in one order and asked for in another, every run's verdict and the counters are checked, and rounds with and without
 * the program alternate. xdp: whole connections, both translations at once. tc: split ones, so each packet goes through
 * the ingress and the egress program. wire: live frames over a veth, sent by XDP_TX and dropped at the other end, all on
 * one processor, beside the same without a look into any table.
 *
 * Flows are spread over 16 frontends of 64 backends each.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { ATTACH_XDP, XDP_NATIVE } from '../../src/dataplane/ebpf/attach-types.ts';
import { encodeKnobs, type Knobs, mapEntries } from '../../src/dataplane/ebpf/knobs.ts';
import { type BpfObject, bpfNative, kernelOffersContext, loadBpf } from '../../src/dataplane/ebpf/native.ts';
import type { TrafficKnobs } from '../../src/dataplane/ebpf/traffic-table.ts';
import type { Family } from '../../src/model/records.ts';
import { packageRoot } from '../../src/node/native.ts';
import type { PacketRow } from '../modes/result.ts';
import { inNamespace, makeNamespace, removeNamespacesAtExit, within } from '../support/namespace.ts';
import { type Cost, Flows, type Hook } from './flows.ts';

export type PacketPart = Hook | 'wire';

export interface PacketOptions {
  readonly families: readonly Family[];
  /** Open connections, powers of two. */
  readonly flows: readonly number[];
  readonly say: (line: string) => void;
  /** Default: all. */
  readonly parts?: readonly PacketPart[];
}

/** At this many flows new connections are measured. */
const MIDDLE = 1 << 16;
const PARTS: readonly PacketPart[] = ['xdp', 'tc', 'wire'];

/** Throws where there is no clang or no checkout. Returns the object's path. */
export function compile(): string {
  const out = path.join(packageRoot(), 'build/bpf/bench.o');
  const machine = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as string] ?? process.arch;
  const args = ['-O2', '-g', '-Wno-unused-function', '-target', 'bpf', '-mcpu=v3'];
  args.push(`-I/usr/include/${machine}-linux-gnu`, '-c');
  const source = path.join(packageRoot(), 'bench/per-packet/wrapper.c');
  if (!existsSync(source)) throw new Error('needs a checkout: the sources of the BPF programs are not here');
  const result = spawnSync(process.env.CLANG ?? 'clang', [...args, source, '-o', out], { encoding: 'utf8' });
  if (result.error) throw new Error(`needs clang: ${result.error.message}`);
  if (result.status !== 0) throw new Error(result.stderr);
  return out;
}

export async function load(
  family: Family,
  connections: number,
  objectPath: string,
  { ifindex = 1, traffic }: { readonly ifindex?: number; readonly traffic?: TrafficKnobs } = {},
): Promise<{ bench: Flows; object: BpfObject }> {
  const knobs: Knobs = {
    sizes: { frontends: 1024, backends: 2048, connections, affinities: 64, sourceRanges: 64, hops: 64 },
    natPorts: [
      { first: 61000, last: 65535 },
      { first: 20000, last: 29999 },
    ],
    seed: Uint8Array.from({ length: 16 }, (_, i) => i * 29 + 7),
    hz: 250,
    setRetval: true,
    netnsCookie: true,
    redirectNeigh: true,
    partialChecksums: true,
    kernelContext: kernelOffersContext(),
    ...(traffic && { traffic }),
  };
  const maps = { ...mapEntries(knobs.sizes), tp_traffic: traffic ? traffic.stride * traffic.parts : 1 };
  const object = await loadBpf({
    path: objectPath,
    pinRoot: '',
    maps,
    without: [],
    rodata: encodeKnobs(knobs),
  });
  return { bench: new Flows(object, knobs, family, ifindex), object };
}

async function testRuns(
  family: Family,
  hook: Hook,
  { flows: sizes, say }: PacketOptions,
  objectPath: string,
): Promise<PacketRow[]> {
  const rows: PacketRow[] = [];
  for (const flows of sizes) {
    say(`per packet: ${hook}, IPv${family}, ${flows} flows`);
    const { bench, object } = await load(family, Math.max(flows, MIDDLE), objectPath);
    const add = (what: PacketRow['what'], cost: Cost) => rows.push({ hook, family, flows, what, ...cost });
    const { forward, reply } = bench.established(flows, hook);
    add('to the backend', forward);
    add('back', reply);
    if (flows === MIDDLE && hook === 'xdp') add('new connection', bench.fresh(flows, hook));
    if (flows === 1 && hook === 'xdp') {
      add('no service', bench.stranger(0));
      add('no service, NAT port', bench.stranger(62000));
    }
    object.close();
  }
  return rows;
}

/** A veth pair whose far end drops what arrives. */
async function overWire({ flows: sizes, say }: PacketOptions, objectPath: string): Promise<PacketRow[]> {
  const netns = makeNamespace('wire');
  removeNamespacesAtExit();
  for (const line of ['add near type veth peer name far', 'set near up', 'set far up'])
    inNamespace(netns, 'ip', 'link', ...line.split(' '));
  const indexOf = (name: string): number =>
    JSON.parse(inNamespace(netns, 'ip', '-j', 'link', 'show', 'dev', name))[0].ifindex;
  const [near, far] = [indexOf('near'), indexOf('far')];
  return within(netns, async () => {
    const rows: PacketRow[] = [];
    for (const flows of sizes) {
      say(`per packet: live frames, ${flows} flows`);
      const { bench, object } = await load(4, Math.max(flows, MIDDLE), objectPath, { ifindex: near });
      const link = bpfNative().bpfLinkDevice(object.programs().bench_drop!, far, ATTACH_XDP, XDP_NATIVE, '');
      rows.push({ hook: 'wire', family: 4, flows, what: 'to the backend', ...bench.wire(flows) });
      bpfNative().bpfClose(link);
      object.close();
    }
    return rows;
  });
}

/** Throws, with its reason, where the programs cannot be compiled or loaded. */
export async function measurePackets(options: PacketOptions): Promise<PacketRow[]> {
  const objectPath = compile();
  const { parts = PARTS, families } = options;
  const rows: PacketRow[] = [];
  for (const hook of ['xdp', 'tc'] as const)
    if (parts.includes(hook))
      for (const family of families) rows.push(...(await testRuns(family, hook, options, objectPath)));
  if (parts.includes('wire') && families.includes(4)) rows.push(...(await overWire(options, objectPath)));
  return rows;
}
