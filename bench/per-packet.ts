/**
 * What a packet costs in XDP: by BPF_PROG_TEST_RUN over a wrapper (per-packet/wrapper.c) that makes each packet
 * anew. Connections are made in one order and asked for in another, every run's verdict and the counters are
 * checked, rounds with and without the program alternate, and the median of the differences is shown.
 *
 * Flows are spread over 16 frontends of 64 backends each.
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import process from 'node:process';
import { ABI, LAYOUTS } from '../src/dataplane/ebpf/abi.ts';
import { encodeKnobs, type Knobs, mapEntries, tickShift } from '../src/dataplane/ebpf/knobs.ts';
import { type BpfObject, bpfNative, loadBpf } from '../src/dataplane/ebpf/native.ts';
import { Settings } from '../src/dataplane/ebpf/settings.ts';
import { type Mapped, mapArray, Tables } from '../src/dataplane/ebpf/tables.ts';
import type { Address, Family } from '../src/model/records.ts';
import { packageRoot } from '../src/node/native.ts';

const FRONTENDS = 16;
const BACKENDS_EACH = 64;
const ENTRIES = 1 << 21;
const ROUNDS = 15;
const PACKETS_A_ROUND = 1 << 16;
const NEW_A_ROUND = 4096;
const TX = 3;
const PASS = 2;
const SYN = 2;
const ACK = 16;
const CONN = LAYOUTS.tp_conn;
const STATE = { next: 0, verdicts: 1, peerPort: 9, flags: 10, answer: 11, mask: 12, natAddr: 13 };

const swap16 = (n: number) => ((n & 255) << 8) | (n >> 8);
const swap32 = (n: number) =>
  (((n & 255) << 24) | ((n & 0xff00) << 8) | ((n >>> 8) & 0xff00) | (n >>> 24)) >>> 0;
const median = (samples: number[]) => samples.sort((a, b) => a - b)[samples.length >> 1]!;

/** A repeatable shuffle. */
function shuffle<T>(items: T[]): T[] {
  let state = 12345;
  for (let i = items.length - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = state % (i + 1);
    [items[i], items[j]] = [items[j]!, items[i]!];
  }
  return items;
}

/** A frame that the wrapper fills in: TCP without payload. */
function template(family: Family): Uint8Array {
  const frame = new Uint8Array(14 + (family === 4 ? 20 : 40) + 20);
  const view = new DataView(frame.buffer);
  if (family === 4) {
    view.setUint8(14, 0x45);
    view.setUint16(16, 40);
    view.setUint8(23, 6);
  } else {
    view.setUint8(14, 0x60);
    view.setUint16(18, 20);
    view.setUint8(20, 6);
  }
  view.setUint8(frame.length - 8, 0x50);
  return frame;
}

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

class Bench {
  readonly #object: BpfObject;
  readonly #family: Family;
  readonly #programs: Record<string, number>;
  readonly #tables: Tables;
  readonly #state: Mapped;
  readonly #packets: Mapped;
  readonly #settings: Settings;
  readonly #frame: Uint8Array;

  constructor(object: BpfObject, knobs: Knobs, family: Family) {
    this.#object = object;
    this.#family = family;
    this.#programs = object.programs();
    this.#tables = new Tables(object, knobs.seed);
    this.#state = mapArray(object.maps().bench_state!);
    this.#packets = mapArray(object.maps().bench_packets!);
    this.#settings = new Settings(this.#tables.settings);
    this.#settings.advanceRoutes();
    this.#frame = template(family);
    this.#addHop();
    for (let f = 0; f < FRONTENDS; f++) this.#addFrontend(f);
  }

  /** Next hop 1: out of the device that the test run comes in by, so that the verdict is XDP_TX. */
  #addHop(): void {
    const { view, bytes } = this.#tables.hops;
    const m = LAYOUTS.tp_hop.members;
    view.setUint32(m.state, ABI.LIVE, true);
    view.setUint32(m.ifindex, 1, true);
    view.setUint32(m.mtu, 1500, true);
    view.setUint32(m.gen, this.#settings.routeGeneration, true);
    bytes.set([10, 0, 0, 1], m.nat4);
    bytes.set([0xfd, 2], m.nat6);
    bytes[m.nat6 + 15] = 1;
  }

  #addFrontend(f: number): void {
    const base = f * BACKENDS_EACH;
    const backends = Array.from({ length: BACKENDS_EACH }, (_, i) => base + i);
    for (const b of backends) {
      const text = this.#family === 4 ? `10.128.${b >> 8}.${b & 255}` : `fd01::${b.toString(16)}`;
      const flags = ABI.B_IN_CLUSTER;
      this.#tables.writeBackend(b, { address: text as Address, port: 8080, flags, incarnation: 1 });
      const m = LAYOUTS.tp_backend.members;
      this.#tables.backends.view.setUint32(b * 32 + m.hop, 1, true);
      this.#tables.backends.view.setUint32(b * 32 + m.hop_gen, this.#settings.routeGeneration, true);
    }
    this.#tables.writePool(base, backends);
    const pool = { base, count: BACKENDS_EACH, answer: ABI.CLUSTER };
    const address = this.#family === 4 ? `192.0.2.${f}` : `2001:db8::${f.toString(16)}`;
    const key = { address: address as Address, port: 80, protocol: 'TCP', family: this.#family } as const;
    const flags = ABI.F_XDP | ABI.F_MASQ_ALWAYS;
    const record = { ...key, flags, inside: pool, outside: pool, service: f, affinity: 0, guard: 0 };
    this.#tables.writeFrontend(f, record);
    if (!this.#tables.link(f, key)) throw new Error('no room in the index');
  }

  /** The client of flow n as two words of struct bench_packet. */
  #client(n: number): [number, number] {
    const address = this.#family === 4 ? 0xac100000 + (n >>> 8) : n >>> 8;
    const port = 1024 + (n & 255) * 97;
    return [swap32(address), swap16(port) | ((n % FRONTENDS) << 16)];
  }

  /** Writes the sequence that the runs go through: a power of two long. */
  #sequence(items: readonly (readonly [number, number])[]): void {
    items.forEach(([first, second], i) => {
      this.#packets.words[2 * i] = first;
      this.#packets.words[2 * i + 1] = second;
    });
    this.#state.words[STATE.next] = 0;
    this.#state.words[STATE.mask] = items.length - 1;
  }

  #mode(answer: number, flags: number, peerPort: number): void {
    const s = this.#state.words;
    s[STATE.answer] = answer;
    s[STATE.flags] = flags;
    s[STATE.peerPort] = swap16(peerPort);
    s[STATE.natAddr] = this.#family === 4 ? swap32(0x0a000001) : swap32(1);
  }

  /** Mean nanoseconds of one run; every run must have the verdict. */
  #run(program: string, repeat: number, verdict: number): number {
    const verdicts = this.#state.words.subarray(STATE.verdicts, STATE.verdicts + 8);
    verdicts.fill(0);
    const fd = this.#programs[`${program}${this.#family}`]!;
    const { ns } = bpfNative().bpfTestRun(fd, this.#frame, new Uint8Array(0), 256, repeat);
    if (verdicts[verdict] !== repeat) {
      throw new Error(`${program}: ${repeat} runs, but verdicts were ${verdicts.join(' ')}`);
    }
    return ns;
  }

  #counterNew(): number {
    const cpus = 256;
    const value = bpfNative().bpfMapLookup(this.#object.maps().tp_counters!.fd, new Uint8Array(4), 8 * cpus)!;
    return Number(new BigUint64Array(value.buffer).reduce((sum, n) => sum + n, 0n));
  }

  #fill(flows: number): void {
    this.#mode(0, SYN, 80);
    for (let at = 0; at < flows; at += ENTRIES / 2) {
      const count = Math.min(flows - at, ENTRIES / 2);
      this.#sequence(Array.from({ length: count }, (_, i) => this.#client(at + i)));
      this.#run('bench_run', count, TX);
    }
    // Next hop 1 also toward the client, which the FIB would say at its first answer.
    const { words, view, entries } = this.#tables.conns;
    for (let i = 0; i < entries * ABI.CONN_WAYS; i++) {
      if ((words[i * 16]! & 15) === ABI.LIVE) view.setUint16(i * 64 + CONN.members.hop_reply, 1, true);
    }
  }

  /** Alternates the wrapper with and without the program. */
  #measure(verdict: number, packets: number): number {
    const differences: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const whole = this.#run('bench_run', packets, verdict);
      differences.push(whole - this.#run('bench_null', packets, TX));
    }
    return median(differences);
  }

  /** Packets of both directions of `flows` connections. */
  established(flows: number): { forward: number; reply: number } {
    this.#fill(flows);
    const made = this.#counterNew();
    const order = shuffle(Array.from({ length: flows }, (_, i) => i));
    const packets = Math.max(PACKETS_A_ROUND, Math.min(flows, 1 << 18));
    this.#mode(0, ACK, 80);
    this.#sequence(order.map((n) => this.#client(n)));
    this.#run('bench_run', packets, TX);
    const forward = this.#measure(TX, packets);
    this.#mode(1, ACK, 8080);
    this.#sequence(shuffle(this.#answers()));
    this.#run('bench_run', packets, TX);
    const reply = this.#measure(TX, packets);
    if (this.#counterNew() !== made) throw new Error('a packet of a known connection made a new one');
    return { forward, reply };
  }

  /** Backend and NAT port of every connection. */
  #answers(): [number, number][] {
    const { words, view, entries } = this.#tables.conns;
    const found: [number, number][] = [];
    for (let i = 0; i < entries * ABI.CONN_WAYS; i++) {
      if ((words[i * 16]! & 15) !== ABI.LIVE) continue;
      const backend = view.getUint32(i * 64 + CONN.members.backend, true);
      const address = this.#family === 4 ? 0x0a800000 + backend : backend;
      found.push([swap32(address), view.getUint16(i * 64 + CONN.members.nat_port, true)]);
    }
    return found;
  }

  /** Connections never seen before, with `flows` others open: as many are taken down between rounds as were made. */
  fresh(flows: number): number {
    const differences: number[] = [];
    let oldest = 0;
    let newest = flows;
    for (let round = 0; round < ROUNDS * 2; round++) {
      const made = this.#counterNew();
      this.#mode(0, SYN, 80);
      const order = shuffle(Array.from({ length: NEW_A_ROUND }, (_, i) => newest + i));
      this.#sequence(order.map((n) => this.#client(n)));
      const whole = this.#run('bench_run', NEW_A_ROUND, TX);
      differences.push(whole - this.#run('bench_null', NEW_A_ROUND, TX));
      if (this.#counterNew() - made !== NEW_A_ROUND) throw new Error('not every packet made a connection');
      this.#sequence(Array.from({ length: NEW_A_ROUND }, (_, i) => this.#client(oldest + i)));
      this.#run('bench_retire', NEW_A_ROUND, PASS);
      newest += NEW_A_ROUND;
      oldest += NEW_A_ROUND;
    }
    return median(differences);
  }

  /** Packets for nobody here; with `natPort`, to a NAT port that no connection has. */
  stranger(natPort: number): number {
    this.#mode(0, ACK, natPort === 0 ? 81 : natPort);
    this.#sequence(shuffle(Array.from({ length: 1 << 16 }, (_, i) => this.#client(i))));
    return this.#measure(PASS, PACKETS_A_ROUND);
  }
}

async function load(
  family: Family,
  connections: number,
  objectPath: string,
): Promise<{ bench: Bench; object: BpfObject }> {
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
  void tickShift;
  const maps = mapEntries(knobs.sizes);
  const object = await loadBpf({
    path: objectPath,
    pinRoot: '',
    maps,
    without: [],
    rodata: encodeKnobs(knobs),
  });
  return { bench: new Bench(object, knobs, family), object };
}

const objectPath = compile();
for (const family of [4, 6] as const) {
  for (const flows of [1, 1024, 1 << 16, 1 << 20]) {
    const { bench, object } = await load(family, Math.max(flows, 1 << 16), objectPath);
    const { forward, reply } = bench.established(flows);
    const mean = (forward + reply) / 2;
    process.stdout.write(
      `IPv${family} established ${String(flows).padStart(8)} flows: ${forward} ns to the backend, ${reply} ns back, ${mean} ns mean\n`,
    );
    if (flows === 1 << 16)
      process.stdout.write(`IPv${family} new at ${flows} flows: ${bench.fresh(flows)} ns\n`);
    if (flows === 1) {
      process.stdout.write(`IPv${family} no service: ${bench.stranger(0)} ns\n`);
      process.stdout.write(`IPv${family} no service, to a NAT port: ${bench.stranger(62000)} ns\n`);
    }
    object.close();
  }
}
