/** Packets of many flows through one loaded object, by BPF_PROG_TEST_RUN over wrapper.c. */
import { ABI, LAYOUTS } from '../../src/dataplane/ebpf/abi.ts';
import type { Knobs } from '../../src/dataplane/ebpf/knobs.ts';
import { type BpfObject, bpfNative } from '../../src/dataplane/ebpf/native.ts';
import { Settings } from '../../src/dataplane/ebpf/settings.ts';
import { type Mapped, mapArray, Tables } from '../../src/dataplane/ebpf/tables.ts';
import type { Address, Family } from '../../src/model/records.ts';
import { type Ratio, ratioOf } from '../support/ratio.ts';

const FRONTENDS = 16;
const BACKENDS_EACH = 64;
const ENTRIES = 1 << 21;
const ROUNDS = 15;
const PACKETS_A_ROUND = 1 << 16;
const NEW_A_ROUND = 4096;
const FRAMES_A_ROUND = 1 << 18;
const LIVE_FRAMES = 2;
const TX = 3;
const REDIRECT = 4;
const PASS = 2;
const SYN = 2;
const ACK = 16;
/** The verdict of what is sent on, in the three bits that are counted: XDP_TX; TC_ACT_UNSPEC, which is -1. */
const SENT = { xdp: TX, tc: 7 } as const;
const RUN = { xdp: 'bench_run', tc: 'bench_tcrun' } as const;
const NULL = { xdp: 'bench_null', tc: 'bench_tcnull' } as const;
export type Hook = keyof typeof RUN;
const NAT4 = [10, 0, 0, 1];
const NAT6 = [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const CONN = LAYOUTS.tp_conn;
const STATE = { next: 0, verdicts: 1, peerPort: 9, flags: 10, answer: 11, mask: 12, natAddr: 13 };

const swap16 = (n: number) => ((n & 255) << 8) | (n >> 8);
const swap32 = (n: number) =>
  (((n & 255) << 24) | ((n & 0xff00) << 8) | ((n >>> 8) & 0xff00) | (n >>> 24)) >>> 0;
const median = (samples: number[]) => samples.sort((a, b) => a - b)[samples.length >> 1]!;

/** The same packets through the program and through one that only writes them, in turns. */
export interface Cost extends Ratio {
  /** What the program adds, in ns a packet: the median of the differences. */
  readonly ns: number;
}

function costOf(whole: readonly number[], bare: readonly number[]): Cost {
  return { ...ratioOf(bare, whole), ns: median(whole.map((ns, round) => ns - bare[round]!)) };
}

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

/** Flows over the tables of one loaded object. */
export class Flows {
  readonly #object: BpfObject;
  readonly #ifindex: number;
  readonly #family: Family;
  readonly #programs: Record<string, number>;
  readonly #tables: Tables;
  readonly #state: Mapped;
  readonly #packets: Mapped;
  readonly #settings: Settings;
  readonly #frame: Uint8Array;

  /** @param ifindex the device that packets come by and leave by; 1: the loopback that a test run takes */
  constructor(object: BpfObject, knobs: Knobs, family: Family, ifindex = 1) {
    this.#object = object;
    this.#ifindex = ifindex;
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
    view.setUint32(m.ifindex, this.#ifindex, true);
    view.setUint32(m.mtu, 1500, true);
    view.setUint32(m.gen, this.#settings.routeGeneration, true);
    view.setUint32(m.flags, ABI.D_XDP_SEND, true);
    bytes.set(NAT4, m.nat4);
    bytes.set(NAT6, m.nat6);
    // What masquerade uses at tc.
    const row = new Uint8Array(LAYOUTS.tp_device.bytes);
    row.set(NAT4, LAYOUTS.tp_device.members.nat4);
    row.set(NAT6, LAYOUTS.tp_device.members.nat6);
    const key = new Uint8Array(Uint32Array.of(this.#ifindex).buffer);
    bpfNative().bpfMapUpdate(this.#object.maps().tp_devices!.fd, key, row, 0);
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
  #run(program: string, repeat: number, verdict: number, flags = 0): number {
    const verdicts = this.#state.words.subarray(STATE.verdicts, STATE.verdicts + 8);
    verdicts.fill(0);
    const fd = this.#programs[`${program}${this.#family}`]!;
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    const words = flags === 0 ? [] : [0, this.#frame.length, 0, this.#ifindex, 0, 0];
    const context = new Uint8Array(Uint32Array.from(words).buffer);
    const { ns } = bpfNative().bpfTestRun(fd, this.#frame, context, flags === 0 ? 256 : 0, repeat, flags);
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

  #fill(flows: number, hook: Hook): void {
    this.#mode(0, SYN, 80);
    // A run without live frames comes by lo: a hop by another device is a redirection from there.
    const sent = hook === 'xdp' && this.#ifindex !== 1 ? REDIRECT : SENT[hook];
    for (let at = 0; at < flows; at += ENTRIES / 2) {
      const count = Math.min(flows - at, ENTRIES / 2);
      this.#sequence(Array.from({ length: count }, (_, i) => this.#client(at + i)));
      this.#run(RUN[hook], count, sent);
    }
    // Next hop 1 also toward the client, which the FIB would say at its first answer.
    const { words, view, entries } = this.#tables.conns;
    for (let i = 0; i < entries * ABI.CONN_WAYS; i++) {
      if ((words[i * 16]! & 15) === ABI.LIVE) view.setUint16(i * 64 + CONN.members.hop_reply, 1, true);
    }
  }

  /** Alternates the wrapper with and without the program. */
  #measure(hook: Hook, verdict: number, packets: number): Cost {
    const whole: number[] = [];
    const bare: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      whole.push(this.#run(RUN[hook], packets, verdict));
      bare.push(this.#run(NULL[hook], packets, SENT[hook]));
    }
    return costOf(whole, bare);
  }

  /** Packets of both directions of `flows` connections. */
  established(flows: number, hook: Hook): { forward: Cost; reply: Cost } {
    this.#fill(flows, hook);
    const made = this.#counterNew();
    const order = shuffle(Array.from({ length: flows }, (_, i) => i));
    const packets = Math.max(PACKETS_A_ROUND, Math.min(flows, 1 << 18));
    this.#mode(0, ACK, 80);
    this.#sequence(order.map((n) => this.#client(n)));
    this.#run(RUN[hook], packets, SENT[hook]);
    const forward = this.#measure(hook, SENT[hook], packets);
    this.#mode(1, ACK, 8080);
    this.#sequence(shuffle(this.#answers()));
    this.#run(RUN[hook], packets, SENT[hook]);
    const reply = this.#measure(hook, SENT[hook], packets);
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
  fresh(flows: number, hook: Hook): Cost {
    const whole: number[] = [];
    const bare: number[] = [];
    let oldest = 0;
    let newest = flows;
    for (let round = 0; round < ROUNDS * 2; round++) {
      const made = this.#counterNew();
      this.#mode(0, SYN, 80);
      const order = shuffle(Array.from({ length: NEW_A_ROUND }, (_, i) => newest + i));
      this.#sequence(order.map((n) => this.#client(n)));
      whole.push(this.#run(RUN[hook], NEW_A_ROUND, SENT[hook]));
      bare.push(this.#run(NULL[hook], NEW_A_ROUND, SENT[hook]));
      if (this.#counterNew() - made !== NEW_A_ROUND) throw new Error('not every packet made a connection');
      this.#sequence(Array.from({ length: NEW_A_ROUND }, (_, i) => this.#client(oldest + i)));
      this.#run('bench_retire', NEW_A_ROUND, PASS);
      newest += NEW_A_ROUND;
      oldest += NEW_A_ROUND;
    }
    return costOf(whole, bare);
  }

  /** Packets for nobody here; with `natPort`, to a NAT port that no connection has. */
  stranger(natPort: number): Cost {
    this.#mode(0, ACK, natPort === 0 ? 81 : natPort);
    this.#sequence(shuffle(Array.from({ length: 1 << 16 }, (_, i) => this.#client(i))));
    return this.#measure('xdp', PASS, PACKETS_A_ROUND);
  }

  /**
   * What one processor needs to bring a frame over the wire with `flows` connections open, beside bouncing it without a
   * look into any table. Each frame is written anew, because pages come back with what they held.
   */
  wire(flows: number): Cost {
    this.#fill(flows, 'xdp');
    this.#mode(0, ACK, 80);
    const order = shuffle(Array.from({ length: flows }, (_, i) => i));
    this.#sequence(order.map((n) => this.#client(n)));
    const forwarded: number[] = [];
    const bounced: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      forwarded.push(this.#run(RUN.xdp, FRAMES_A_ROUND, TX, LIVE_FRAMES));
      bounced.push(this.#run(NULL.xdp, FRAMES_A_ROUND, TX, LIVE_FRAMES));
    }
    return costOf(forwarded, bounced);
  }
}
