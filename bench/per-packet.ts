/**
 * What a packet costs: by BPF_PROG_TEST_RUN over a wrapper (per-packet/wrapper.c) that makes each packet anew.
 * Connections are made in one order and asked for in another, every run's verdict and the counters are checked,
 * rounds with and without the program alternate, and the median of the differences is shown.
 *
 * `node scripts/bench.mjs per-packet [xdp] [tc] [wire]`. xdp: whole connections, both translations at once. tc: split
 * ones, so each packet goes through the ingress and the egress program. wire: live frames over a veth, sent by XDP_TX
 * and dropped at the other end, all on one processor, beside the same without a look into any table.
 *
 * Flows are spread over 16 frontends of 64 backends each.
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import process from 'node:process';
import { ATTACH_XDP, XDP_NATIVE } from '../src/dataplane/ebpf/attach-types.ts';
import { encodeKnobs, type Knobs, mapEntries } from '../src/dataplane/ebpf/knobs.ts';
import { type BpfObject, bpfNative, loadBpf } from '../src/dataplane/ebpf/native.ts';
import type { Family } from '../src/model/records.ts';
import { loadNative, packageRoot } from '../src/node/native.ts';
import { Flows, type Hook } from './per-packet/flows.ts';
import { inNamespace, makeNamespace, removeNamespacesAtExit } from './support/namespace.ts';
import { describeMachine, headline, lookForQuiet } from './support/quiet.ts';

function compile(): string {
  const out = path.join(packageRoot(), 'build/bpf/bench.o');
  const machine = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as string] ?? process.arch;
  const args = ['-O2', '-g', '-Wno-unused-function', '-target', 'bpf', '-mcpu=v3'];
  args.push(`-I/usr/include/${machine}-linux-gnu`, '-c');
  const source = path.join(packageRoot(), 'bench/per-packet/wrapper.c');
  const result = spawnSync(process.env.CLANG ?? 'clang', [...args, source, '-o', out], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(result.stderr);
  return out;
}

async function load(
  family: Family,
  connections: number,
  objectPath: string,
  ifindex = 1,
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
  };
  const maps = mapEntries(knobs.sizes);
  const object = await loadBpf({
    path: objectPath,
    pinRoot: '',
    maps,
    without: [],
    rodata: encodeKnobs(knobs),
  });
  return { bench: new Flows(object, knobs, family, ifindex), object };
}

const say = (text: string) => process.stdout.write(`${text}\n`);

async function testRuns(family: Family, hook: Hook, objectPath: string): Promise<void> {
  const sizes = hook === 'xdp' ? [1, 1024, 1 << 16, 1 << 20] : [1, 1024, 1 << 16];
  for (const flows of sizes) {
    const { bench, object } = await load(family, Math.max(flows, 1 << 16), objectPath);
    const { forward, reply } = bench.established(flows, hook);
    const mean = (forward + reply) / 2;
    const what = `${hook} IPv${family}`;
    say(
      `${what} established ${String(flows).padStart(8)} flows: ${forward} ns to the backend, ${reply} back, ${mean} mean`,
    );
    if (flows === 1 << 16 && hook === 'xdp')
      say(`${what} new at ${flows} flows: ${bench.fresh(flows, hook)} ns`);
    if (flows === 1 && hook === 'xdp') {
      say(`${what} no service: ${bench.stranger(0)} ns`);
      say(`${what} no service, to a NAT port: ${bench.stranger(62000)} ns`);
    }
    object.close();
  }
}

/** A veth pair whose far end drops what arrives; this process enters its namespace. */
async function overWire(objectPath: string): Promise<void> {
  const netns = makeNamespace('wire');
  for (const line of ['add near type veth peer name far', 'set near up', 'set far up'])
    inNamespace(netns, 'ip', 'link', ...line.split(' '));
  const indexOf = (name: string): number =>
    JSON.parse(inNamespace(netns, 'ip', '-j', 'link', 'show', 'dev', name))[0].ifindex;
  const [near, far] = [indexOf('near'), indexOf('far')];
  (loadNative() as unknown as { netnsEnter(path: string): void }).netnsEnter(netns);
  for (const flows of [1024, 1 << 16]) {
    const { bench, object } = await load(4, 1 << 16, objectPath, near);
    const link = bpfNative().bpfLinkDevice(object.programs().bench_drop!, far, ATTACH_XDP, XDP_NATIVE, '');
    const { forwarded, bounced } = bench.wire(flows);
    const mega = (n: number) => (n / 1e6).toFixed(2);
    const share = (forwarded / bounced).toFixed(2);
    say(`wire IPv4 ${flows} flows: ${mega(forwarded)} Mpps, a bare bounce ${mega(bounced)}, ratio ${share}`);
    bpfNative().bpfClose(link);
    object.close();
  }
}

const parts = process.argv.slice(2);
const wanted = (part: string) => parts.length === 0 || parts.includes(part);
process.stderr.write(headline(describeMachine(), await lookForQuiet(5000)));
const objectPath = compile();
for (const hook of ['xdp', 'tc'] as const)
  if (wanted(hook)) for (const family of [4, 6] as const) await testRuns(family, hook, objectPath);
if (wanted('wire')) {
  removeNamespacesAtExit();
  await overWire(objectPath);
}
