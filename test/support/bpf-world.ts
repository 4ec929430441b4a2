/**
 * A network namespace with two devices and known neighbours, and the programs loaded over small tables: enough for
 * BPF_PROG_TEST_RUN to forward. Nothing is attached and nothing is pinned; what is loaded goes with the process.
 *
 *     client 10.0.0.9 / fd00::9  -- up0 10.0.0.1 / fd00::1 [node] dn0 10.1.0.1 / fd01::1 -- backends 10.1.0.x / fd01::x
 */
import { spawnSync } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import process from 'node:process';
import {
  ABI,
  COUNTERS,
  type CounterName,
  LAYOUTS,
  PROTOCOL_NUMBERS,
  writeAddress,
} from '../../src/dataplane/ebpf/abi.ts';
import { encodeKnobs, type Knobs, mapEntries, type Sizes } from '../../src/dataplane/ebpf/knobs.ts';
import {
  type BpfObject,
  bpfNative,
  bpfObjectPath,
  kernelOffersConntrack,
  kernelOffersContext,
  loadBpf,
  type MapHandle,
} from '../../src/dataplane/ebpf/native.ts';
import { Settings } from '../../src/dataplane/ebpf/settings.ts';
import { type FrontendKey, type Pool, Tables } from '../../src/dataplane/ebpf/tables.ts';
import type { Address, Family, Protocol } from '../../src/model/records.ts';
import { loadNative } from '../../src/node/native.ts';
import { familyOf } from './packet.ts';

export const NET = {
  client: { 4: '10.0.0.9', 6: 'fd00::9' },
  uplink: { 4: '10.0.0.1', 6: 'fd00::1' },
  downlink: { 4: '10.1.0.1', 6: 'fd01::1' },
  /** Behind dn0, with neighbour entries for numbers 2 to 9. */
  backend: (family: Family, n: number) => (family === 4 ? `10.1.0.${n}` : `fd01::${n}`),
  clientMac: '02:00:00:00:09:09',
  backendMac: (n: number) => `02:00:00:00:01:0${n}`,
} as const;

export const SMALL: Sizes = {
  frontends: 1024,
  backends: 4096,
  connections: 4096,
  affinities: 256,
  sourceRanges: 256,
  hops: 64,
};

export const NAT_PORTS = [{ first: 61000, last: 65535 }];

const bytesOf = (...words: number[]) => new Uint8Array(Uint32Array.from(words).buffer);

function run(command: string, ...args: string[]): void {
  const result = spawnSync(command, args, { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${result.stderr}`);
}

/** A namespace of its own, which the main thread enters. leave() undoes both. */
export class TestNet {
  readonly name: string;
  readonly #home = openSync('/proc/self/ns/net', 'r');

  constructor(label: string) {
    this.name = `tpb${label}${process.pid}`;
    run('ip', 'netns', 'add', this.name);
    try {
      this.#build();
    } catch (error) {
      this.leave();
      throw error;
    }
  }

  #build(): void {
    const inside = (...args: string[]) => run('nsenter', `--net=/run/netns/${this.name}`, ...args);
    inside('sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
    inside('sysctl', '-qw', 'net.ipv6.conf.all.accept_dad=0', 'net.ipv6.conf.default.accept_dad=0');
    inside('ip', 'link', 'set', 'lo', 'up');
    for (const [device, peer, v4, v6] of [
      ['up0', 'up1', NET.uplink[4], NET.uplink[6]],
      ['dn0', 'dn1', NET.downlink[4], NET.downlink[6]],
    ] as const) {
      inside('ip', 'link', 'add', device, 'type', 'veth', 'peer', 'name', peer);
      inside('ip', 'link', 'set', device, 'up');
      inside('ip', 'link', 'set', peer, 'up');
      inside('ip', 'addr', 'add', `${v4}/24`, 'dev', device);
      inside('ip', 'addr', 'add', `${v6}/64`, 'dev', device, 'nodad');
    }
    const neighbour = (address: string, mac: string, device: string) =>
      inside('ip', 'neigh', 'replace', address, 'lladdr', mac, 'dev', device, 'nud', 'permanent');
    for (const family of [4, 6] as const) {
      neighbour(NET.client[family], NET.clientMac, 'up0');
      for (let n = 2; n < 10; n++) neighbour(NET.backend(family, n), NET.backendMac(n), 'dn0');
    }
    (loadNative() as { netnsEnter(path: string): void }).netnsEnter(`/run/netns/${this.name}`);
  }

  route(route: string): void {
    run('nsenter', `--net=/run/netns/${this.name}`, 'ip', 'route', 'add', ...route.split(' '));
  }

  /** Of a device in the namespace. */
  device(name: string): { ifindex: number; mac: string } {
    const result = spawnSync('ip', ['-n', this.name, '-j', 'link', 'show', 'dev', name], {
      encoding: 'utf8',
    });
    const [link] = JSON.parse(result.stdout) as { ifindex: number; address: string }[];
    return { ifindex: link!.ifindex, mac: link!.address };
  }

  leave(): void {
    (loadNative() as { netnsEnter(path: string): void }).netnsEnter(`/proc/self/fd/${this.#home}`);
    closeSync(this.#home);
    spawnSync('ip', ['netns', 'del', this.name]);
  }
}

export interface ServiceSpec {
  readonly address: string;
  readonly port: number;
  readonly protocol?: Protocol;
  readonly flags?: number;
  readonly inside?: 'cluster' | 'local' | 'reject' | 'drop' | 'gone';
  readonly outside?: 'cluster' | 'local' | 'reject' | 'drop' | 'gone';
  /** [address, port, local] */
  readonly backends?: readonly (readonly [string, number, boolean?])[];
  readonly affinity?: number;
  readonly guard?: number;
  readonly service?: number;
}

const ANSWERS = {
  gone: ABI.GONE,
  cluster: ABI.CLUSTER,
  local: ABI.LOCAL,
  reject: ABI.REJECT,
  drop: ABI.DROP,
};

/** A loaded object and everything that a test does to it. */
export class World {
  readonly object: BpfObject;
  readonly tables: Tables;
  readonly settings: Settings;
  readonly programs: Record<string, number>;
  readonly maps: Record<string, MapHandle>;
  readonly knobs: Knobs;
  #frontends = 0;
  #backends = 0;
  #slots = 0;
  #services = 1;

  constructor(object: BpfObject, knobs: Knobs) {
    this.object = object;
    this.knobs = knobs;
    this.maps = object.maps();
    this.programs = object.programs();
    this.tables = new Tables(object, knobs.seed);
    this.settings = new Settings(this.tables.settings);
    this.settings.advanceRoutes();
    this.settings.flags = ABI.S_DETECTOR;
  }

  /** What masquerade uses on a device. */
  setDevice(ifindex: number, v4: string, v6: string, flags: number = ABI.D_XDP_SEND): void {
    const value = new Uint8Array(LAYOUTS.tp_device.bytes);
    const address = new Uint8Array(16);
    writeAddress(address, 0, v4 as Address);
    value.set(bytesOf(flags), 0);
    value.set(address.subarray(0, 4), LAYOUTS.tp_device.members.nat4);
    writeAddress(value, LAYOUTS.tp_device.members.nat6, v6 as Address);
    bpfNative().bpfMapUpdate(this.maps.tp_devices!.fd, bytesOf(ifindex), value, 0);
  }

  addBackends(backends: NonNullable<ServiceSpec['backends']>, member: number): number[] {
    return backends.map(([address, port, local]) => {
      const index = this.#backends++;
      this.tables.writeBackend(index, {
        address: address as Address,
        port,
        flags: member | (local ? ABI.B_LOCAL : 0),
        incarnation: 1,
      });
      return index;
    });
  }

  /** A pool over existing backends. */
  addPool(backends: readonly number[], answer: number): Pool {
    const base = this.#slots;
    this.#slots += backends.length;
    this.tables.writePool(base, backends);
    return { base, count: backends.length, answer };
  }

  /** Returns the frontend's index and its backends' indexes. */
  addService(spec: ServiceSpec): { frontend: number; backends: number[]; key: FrontendKey } {
    const backends = this.addBackends(spec.backends ?? [], ABI.B_IN_CLUSTER | ABI.B_IN_LOCAL);
    const pool = (answer: number): Pool =>
      answer === ABI.CLUSTER || answer === ABI.LOCAL
        ? this.addPool(backends, answer)
        : { base: 0, count: 0, answer };
    const key: FrontendKey = {
      address: spec.address as Address,
      port: spec.port,
      protocol: spec.protocol ?? 'TCP',
      family: familyOf(spec.address),
    };
    const frontend = this.#frontends++;
    this.tables.writeFrontend(frontend, {
      ...key,
      flags: spec.flags ?? 0,
      inside: pool(ANSWERS[spec.inside ?? 'cluster']),
      outside: pool(ANSWERS[spec.outside ?? 'cluster']),
      service: spec.service ?? this.#services++,
      affinity: spec.affinity ?? 0,
      guard: spec.guard ?? 0,
    });
    if (!this.tables.link(frontend, key)) throw new Error('the index is full');
    return { frontend, backends, key };
  }

  addRange(guard: number, address: string, bits: number): void {
    const key = new Uint8Array(LAYOUTS.tp_range_key.bytes);
    key.set(bytesOf(32 + bits, guard), 0);
    writeAddress(key, 8, address as Address);
    bpfNative().bpfMapUpdate(this.maps.tp_ranges!.fd, key, bytesOf(1), 0);
  }

  counter(name: CounterName): number {
    const cpus = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim().split('-');
    const count = Number(cpus.at(-1)) + 1;
    const value = bpfNative().bpfMapLookup(
      this.maps.tp_counters!.fd,
      bytesOf(COUNTERS.indexOf(name)),
      8 * count,
    )!;
    return Number(new BigUint64Array(value.buffer).reduce((sum, one) => sum + one, 0n));
  }

  /** One packet through an XDP program, as if it came in through `ifindex`. */
  xdp(program: string, frame: Uint8Array, ifindex: number) {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    const context = bytesOf(0, frame.length, 0, ifindex, 0, 0);
    return bpfNative().bpfTestRun(this.programs[program]!, frame, context, frame.length + 256, 1);
  }

  /** One packet through a tc program. */
  tc(program: string, frame: Uint8Array, ifindex: number, ingressIfindex = ifindex) {
    // struct __sk_buff, 192 bytes: ifindex at 40, ingress_ifindex (read only) at 36.
    const context = new Uint8Array(192);
    context.set(bytesOf(ifindex), 40);
    void ingressIfindex;
    return bpfNative().bpfTestRun(this.programs[program]!, frame, context, frame.length + 512, 1);
  }

  /** Live entries of tp_conns, as [index, byte offset]. */
  connections(): { index: number; at: number }[] {
    const { words, entries } = this.tables.conns;
    const found: { index: number; at: number }[] = [];
    for (let index = 0; index < entries * ABI.CONN_WAYS; index++) {
      if ((words[index * 16]! & 15) === ABI.LIVE) found.push({ index, at: index * 64 });
    }
    return found;
  }

  /** No connection is left: tables as they were before the first packet. */
  forget(): void {
    this.tables.conns.bytes.fill(0);
    this.tables.pairs.bytes.fill(0);
    this.tables.nat.bytes.fill(0);
  }

  close(): void {
    this.object.close();
  }
}

export async function loadWorld(options: Partial<Knobs> = {}): Promise<World> {
  const knobs: Knobs = {
    sizes: SMALL,
    natPorts: NAT_PORTS,
    seed: Uint8Array.from({ length: 16 }, (_, i) => i * 17 + 3),
    hz: 250,
    setRetval: true,
    netnsCookie: true,
    redirectNeigh: true,
    partialChecksums: true,
    ctLookup: kernelOffersConntrack(),
    kernelContext: kernelOffersContext(),
    ...options,
  };
  const object = await loadBpf({
    path: bpfObjectPath(),
    pinRoot: '',
    maps: {
      ...mapEntries(knobs.sizes),
      tp_traffic: knobs.traffic ? knobs.traffic.stride * knobs.traffic.parts : 1,
    },
    without: [],
    rodata: encodeKnobs(knobs),
  });
  return new World(object, knobs);
}

export const protocolNumber = (protocol: Protocol) => PROTOCOL_NUMBERS[protocol];
