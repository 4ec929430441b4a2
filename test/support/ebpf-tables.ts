/** The tables of ebpf mode over maps of their own, with nothing attached: what is compiled can be looked at. */
import { randomFillSync } from 'node:crypto';
import { Clock, kernelHz, ticksOf } from '../../src/dataplane/ebpf/clock.ts';
import { Collector } from '../../src/dataplane/ebpf/collector.ts';
import { Compiler } from '../../src/dataplane/ebpf/compiler.ts';
import {
  answerOf,
  guardFamilies,
  isAddress,
  isGone,
  readFrontends,
  readNames,
  readPool,
  readRanges,
} from '../../src/dataplane/ebpf/image.ts';
import { encodeKnobs, mapEntries, type Sizes } from '../../src/dataplane/ebpf/knobs.ts';
import { TableMaps } from '../../src/dataplane/ebpf/maps.ts';
import { type BpfObject, bpfObjectPath, loadBpf } from '../../src/dataplane/ebpf/native.ts';
import type { DesiredState } from '../../src/model/desired.ts';
import type { Family } from '../../src/model/records.ts';
import { SMALL } from './bpf-world.ts';

let ticksASecond = 0;

/** kernelHz(). When it is asked for, not when this is imported: without root it cannot be told. */
export function hz(): number {
  ticksASecond ||= kernelHz();
  return ticksASecond;
}

export interface Bench {
  readonly object: BpfObject;
  readonly maps: TableMaps;
  readonly sizes: Sizes;
  close(): void;
}

export async function openBench(sizes: Partial<Sizes> = {}): Promise<Bench> {
  const all = { ...SMALL, ...sizes };
  const seed = randomFillSync(new Uint8Array(16));
  const object = await loadBpf({
    path: bpfObjectPath(),
    pinRoot: '',
    maps: mapEntries(all),
    without: [],
    rodata: encodeKnobs({
      sizes: all,
      natPorts: [{ first: 61000, last: 65535 }],
      seed,
      hz: hz(),
      setRetval: true,
      netnsCookie: true,
      redirectNeigh: true,
      partialChecksums: true,
    }),
  });
  return { object, maps: TableMaps.of(object, seed), sizes: all, close: () => object.close() };
}

/** Everything that is in the maps is gone. */
export function wipe({ maps }: Bench): void {
  for (const { bytes } of [maps.index, maps.frontends, maps.poolSlots, maps.backends, maps.nodePorts])
    bytes.fill(0);
  for (const { bytes } of [maps.conns, maps.pairs, maps.nat]) bytes.fill(0);
  for (const side of [maps.names, maps.ranges]) side.removeAll(side.keys());
}

/** A compiler with a clock of its own. */
export class Subject {
  nowMs = 0;
  readonly compiler: Compiler;
  readonly clock = new Clock(hz());
  readonly collector: Collector;

  constructor(maps: TableMaps, speaks: Iterable<Family> = [4, 6], podsKnown: Iterable<Family> = speaks) {
    const rules = {
      speaks: new Set(speaks),
      podsKnown: new Set(podsKnown),
      xdpForward: 'never',
      ticks: (seconds: number) => ticksOf(seconds, hz()),
    } as const;
    this.compiler = new Compiler(maps, rules, () => this.nowMs);
    this.collector = new Collector(this.compiler, this.clock, () => this.nowMs);
  }

  bring(state: DesiredState) {
    const { compiler } = this;
    const gone = [...compiler.services.keys()].filter((key) => !state.services.has(key));
    return compiler.apply([
      ...gone.map((service) => ({ service, next: null })),
      ...[...state.services].map(([service, next]) => ({ service, next })),
    ]);
  }

  /** What waits is done, and what nobody refers to is forgotten. */
  settle(): void {
    for (let i = 0; i < 3; i++) {
      this.nowMs += 10_000;
      this.collector.pass();
    }
  }
}

/** What the maps mean, without the numbers that depend on the past. */
export function meaning(maps: TableMaps) {
  const names = readNames(maps);
  const images = readFrontends(maps);
  const families = guardFamilies(images);
  const ranges = readRanges(maps, (guard) => families.get(guard));
  const pool = (side: (typeof images)[number]['inside']) =>
    readPool(maps, side)
      .map((record) =>
        Buffer.from(maps.backends.bytes.subarray(record * 32, record * 32 + 20)).toString('hex'),
      )
      .join(' ');
  const guarded = 4;
  const rows = images
    .filter((image) => !isGone(image))
    .map((image) => ({
      key: `${image.address} ${image.port} ${image.proto} ${image.family}`,
      service: isAddress(image) ? '' : names.get(image.service),
      flags: image.flags,
      inside: `${answerOf(image.inside)} ${pool(image.inside)}`,
      outside: `${answerOf(image.outside)} ${pool(image.outside)}`,
      affinity: image.affinitySeconds,
      ranges: (image.flags & guarded) !== 0 ? [...(ranges.get(image.guard) ?? [])].sort() : null,
    }))
    .sort((a, b) => (a.key < b.key ? -1 : 1));
  const nodePorts: string[] = [];
  for (let port = 0; port < 65536; port++)
    if (maps.nodePorts.words[2 * port] !== 0) nodePorts.push(`${port} ${maps.nodePorts.words[2 * port]}`);
  return { rows, nodePorts, names: [...names.values()].sort(), ranges: maps.ranges.keys().length };
}
