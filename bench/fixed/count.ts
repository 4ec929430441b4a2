/**
 * The fixed set: what a change and a start ask of the kernel, counted. Neither the clock nor who else is on the machine
 * has a part in it, so it can be compared with what was counted once (bench/results/fixed.json).
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import process from 'node:process';
import type { Dataplane } from '../../src/dataplane/dataplane.ts';
import { EbpfDataplane } from '../../src/dataplane/ebpf/ebpf-dataplane.ts';
import type { Sizes } from '../../src/dataplane/ebpf/knobs.ts';
import { NftDataplane } from '../../src/dataplane/nft/nft-dataplane.ts';
import { ClusterModel } from '../../src/model/cluster.ts';
import { loadNative } from '../../src/node/native.ts';
import { type ChangeKind, stepsOf } from '../control-plane/changes.ts';
import { allRecords, CONFIG, FACTS, type Size } from '../control-plane/cluster.ts';
import { makeNamespace, removeNamespaces, within } from '../support/namespace.ts';
import { quantile, repeatableRandom } from '../support/stats.ts';

export type FixedMode = 'nft' | 'ebpf';

/** Of one change; of one service at the start. */
export interface Work {
  /** What the dataplane says that it changed. */
  readonly operations: number;
  /** Calls of the addon that go to the kernel. */
  readonly calls: number;
  /** Bytes of operations that were handed to the addon; 0 where there are none. */
  readonly bytes: number;
}

export interface Counted {
  readonly mode: FixedMode;
  readonly services: number;
  readonly kind: ChangeKind | 'start, each service';
  readonly typical: Work;
  readonly most: Work;
}

const ROUNDS = 12;
/** Enough for the larger one; the kernel clears what is larger at each start. */
const SIZES: Sizes = {
  ...{ frontends: 4096, backends: 16_384, connections: 4096, affinities: 256, sourceRanges: 256, hops: 64 },
};
export const FIXED_SIZES = [40, 400] as const;
const WORDS = ['operations', 'calls', 'bytes'] as const;

const seen = { calls: 0, bytes: 0 };

interface Socket {
  commit(...args: unknown[]): Promise<unknown>;
  dumpElements(...args: unknown[]): Promise<unknown>;
}

let restore: (() => void)[] = [];

/** Puts counting ones in the place of the addon's functions. */
function beginCounting(): void {
  const native = loadNative() as unknown as Record<string, unknown>;
  const Own = native.NftSocket as new (netns: string) => Socket;
  native.NftSocket = class extends Own {
    override commit(...args: unknown[]) {
      seen.calls++;
      seen.bytes += (args[3] as Uint8Array).length;
      return super.commit(...args);
    }
    override dumpElements(...args: unknown[]) {
      seen.calls++;
      return super.dumpElements(...args);
    }
  };
  restore.push(() => {
    native.NftSocket = Own;
  });
  // Hashes are reckoned without the kernel.
  for (const name of Object.keys(native).filter((key) => /^bpf(Map|Link|Prog|Load|Close|Pin)/.test(key))) {
    const own = native[name] as (...args: unknown[]) => unknown;
    native[name] = (...args: unknown[]) => {
      seen.calls++;
      return own(...args);
    };
    restore.push(() => {
      native[name] = own;
    });
  }
}

function endCounting(): void {
  for (const one of restore) one();
  restore = [];
}

/** What was counted while `work` ran. */
async function counted(work: () => Promise<{ operations: number }>): Promise<Work> {
  const before = { ...seen };
  const { operations } = await work();
  return { operations, calls: seen.calls - before.calls, bytes: seen.bytes - before.bytes };
}

function summary(works: readonly Work[], share: number): Work {
  const of = (word: (typeof WORDS)[number]) =>
    quantile(
      works.map((work) => work[word]).sort((a, b) => a - b),
      share,
    );
  return { operations: of('operations'), calls: of('calls'), bytes: of('bytes') };
}

async function life(mode: FixedMode, dataplane: Dataplane, services: number): Promise<Counted[]> {
  const size: Size = {
    ...{ name: '', services, endpoints: 10, families: [4, 6], type: 'ClusterIP', affinitySeconds: 0 },
  };
  const model = new ClusterModel(CONFIG, FACTS);
  model.apply(allRecords(size));
  model.produce();
  const start = await counted(() => dataplane.start(model.state));
  const each = {
    operations: Math.ceil(start.operations / services),
    calls: Math.ceil(start.calls / services),
    bytes: Math.ceil(start.bytes / services),
  };
  const works = new Map<ChangeKind, Work[]>();
  const random = repeatableRandom(1);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [kind, records] of stepsOf(size, round, random)) {
      model.apply(records);
      const change = model.produce();
      const work = await counted(async () => {
        const result = await dataplane.apply(change, model.state);
        assert.deepEqual(result.refusals, []);
        return result;
      });
      if (kind) works.set(kind, [...(works.get(kind) ?? []), work]);
    }
  }
  return [
    { mode, services, kind: 'start, each service', typical: each, most: each },
    ...[...works].map(([kind, list]) => {
      const [typical, most] = [summary(list, 0.5), summary(list, 1)];
      return { mode, services, kind, typical, most };
    }),
  ];
}

/** Counts in namespaces of its own; ebpf needs root and pins below the BPF file system. */
export async function countWork(modes: readonly FixedMode[]): Promise<Counted[]> {
  const rows: Counted[] = [];
  beginCounting();
  try {
    for (const mode of modes) {
      for (const services of FIXED_SIZES) {
        const netns = makeNamespace(`fixed-${mode}-${services}`);
        const root = `/sys/fs/bpf/tpfixed${process.pid}`;
        rows.push(
          ...(await within(netns, async () => {
            const dataplane =
              mode === 'nft'
                ? new NftDataplane({ netns })
                : new EbpfDataplane({ root, cgroup: '', sizes: SIZES });
            try {
              return await life(mode, dataplane, services);
            } finally {
              await dataplane.close();
              if (mode === 'ebpf') rmSync(root, { recursive: true, force: true });
            }
          })),
        );
      }
    }
  } finally {
    endCounting();
    removeNamespaces();
  }
  return rows;
}

/**
 * One line for each figure that is beyond what was counted before by more than the share `slack`; '' for none. Names of
 * more digits are some bytes longer.
 */
export function regressions(before: readonly Counted[], now: readonly Counted[], slack = 0): string {
  const lines: string[] = [];
  for (const { mode, services, kind, typical } of now) {
    const old = before.find((row) => row.mode === mode && row.services === services && row.kind === kind);
    const at = `${mode}, ${services} services, ${kind}`;
    if (!old) lines.push(`${at}: not counted before`);
    else
      for (const word of WORDS)
        if (typical[word] > old.most[word] * (1 + slack))
          lines.push(
            `${at}: ${word} ${typical[word]}, before ${old.typical[word]} and at most ${old.most[word]}`,
          );
  }
  return lines.join('\n');
}
