/** The nft mode: nftables carries the traffic. See docs/nft.md for the layout and why it is so. */
import type { DesiredChange, DesiredNode, DesiredService, DesiredState } from '../../model/desired.ts';
import { TriplaneError } from '../../model/errors.ts';
import type { Family } from '../../model/records.ts';
import type {
  AffinityView,
  ApplyResult,
  Measures,
  Mode,
  Refusal,
  Remains,
  Switchable,
  VerifyResult,
} from '../dataplane.ts';
import { NO_TRAFFIC, type TrafficReader, type TrafficSettings } from '../traffic.ts';
import { adoptTable } from './adopt.ts';
import { readAffinities, writeAffinities } from './affinities.ts';
import { writeNamed, writeTableFlags } from './chains.ts';
import { Comparison } from './comparison.ts';
import { type Companion, FamilyKernel, type OwnerChange } from './family-kernel.ts';
import { Keeper } from './keeper.ts';
import { asTriplaneError, goneMeanwhile } from './kernel-errors.ts';
import { readNames, staticDigest } from './kernel-image.ts';
import { KernelRemains } from './kernel-remains.ts';
import { MARKER_PREFIX, shortHash } from './layout.ts';
import {
  type NameAnswer,
  NFPROTO,
  type NftMonitor,
  type NftSocket,
  openNftMonitor,
  openNftSocket,
  withNftSocket,
} from './native.ts';
import { OP, PackedWriter } from './packed.ts';
import { areTablesThere } from './presence.ts';
import { removeTable } from './remove-table.ts';
import { NFT_SCHEME, type Scheme } from './scheme.ts';
import { SkeletonChild } from './skeleton-loader.ts';
import { NftTraffic } from './traffic.ts';

/** A change of so many services is made without the kernel telling us of our own elements one by one. */
const QUIET_FROM_SERVICES = 200;

export interface NftOptions {
  /** Path of the network namespace; '': the current one. */
  readonly netns?: string;
  /** Called when somebody else changed a table of ours; the agent then calls verify(). */
  readonly onForeignChange?: () => void;
  /** The kind of table; default: that of the nft mode. */
  readonly scheme?: Scheme;
  readonly companion?: Companion;
  readonly traffic?: TrafficSettings;
}

const FAMILIES = [4, 6] as const;

/** What Switchable.prepare() is given. */
type Remembered = () => Promise<readonly AffinityView[]>;
const NOBODY: Remembered = async () => [];

export class NftDataplane implements Switchable {
  readonly mode = 'nft';
  private readonly netns: string;
  private readonly onForeignChange: () => void;
  private readonly socket: NftSocket;
  private readonly comparison: Comparison;
  private readonly monitor: NftMonitor;
  private kernels: FamilyKernel[] = [];
  private node: DesiredNode | null = null;
  private readonly scheme: Scheme;
  private readonly companion: Companion | undefined;
  private readonly counting: NftTraffic;

  constructor(options: NftOptions = {}) {
    this.netns = options.netns ?? '';
    this.onForeignChange = options.onForeignChange ?? (() => {});
    this.scheme = options.scheme ?? NFT_SCHEME;
    this.companion = options.companion;
    this.counting = new NftTraffic(options.traffic ?? NO_TRAFFIC, this.netns);
    try {
      this.socket = openNftSocket(this.netns);
      const own = this.socket.portId();
      this.monitor = openNftMonitor(this.netns, this.scheme.table, (portId) => {
        if (portId !== own) this.onForeignChange();
      });
    } catch (error) {
      throw asTriplaneError(error);
    }
    this.comparison = new Comparison(this.socket, this.markerOf);
  }

  /** Most of what an empty kernel costs is the process that loads the skeleton. */
  warm(): void {
    this.child = areTablesThere(this.netns, this.scheme).then(
      (there) => (there ? null : new SkeletonChild(this.netns)),
      () => null,
    );
  }
  private child: Promise<SkeletonChild | null> = Promise.resolve(null);

  private takeChild(): Promise<SkeletonChild | null> {
    const { child } = this;
    this.child = Promise.resolve(null);
    return child;
  }

  start(state: DesiredState): Promise<ApplyResult> {
    return this.prepare(state);
  }

  /**
   * Complete before it takes the first connection; it cannot hold back, and needs not: ebpf stands before it. Only what
   * the node's own processes send meets netfilter first, so clients are known before the tables are awake.
   */
  async prepare(state: DesiredState, remembered: Remembered = NOBODY): Promise<ApplyResult> {
    const result = await this.quietly(() => this.bring(state, remembered));
    (await this.takeChild())?.end();
    if (this.scheme === NFT_SCHEME) await this.counting.bring(state);
    // These tables keep connection tracking and NAT alive as well; those beside IPVS may go before NAT's connections do.
    if (this.scheme === NFT_SCHEME) await new Keeper(this.netns).remove();
    return result;
  }

  traffic(): TrafficReader | null {
    return this.counting.reader;
  }

  measures(): Measures {
    return { tables: this.counting.pressure(), packets: {} };
  }

  lead(): void {}

  async alone(): Promise<void> {}

  async introduce(): Promise<void> {}

  /** Works without start(), too. */
  async affinities(): Promise<readonly AffinityView[]> {
    const found: AffinityView[] = [];
    for (const family of FAMILIES)
      if ((await this.names(family, this.scheme.table)).tableFlags === 0)
        found.push(...(await readAffinities(this.socket, family, this.scheme)));
    return found;
  }

  async learnAffinities(affinities: readonly AffinityView[]): Promise<void> {
    for (const kernel of this.kernels) await writeAffinities(kernel, affinities);
  }

  /** Works without start(), too, on tables that a predecessor left. */
  async retire(state: DesiredState, next: Mode): Promise<Remains> {
    await new Keeper(this.netns).install();
    // Ours translate by NAT alone; without tables of ours it is another proxy whose connections are about.
    const share = next === 'ipvs' || (await areTablesThere(this.netns, this.scheme)) ? 'nat' : 'all';
    for (const family of FAMILIES)
      for (const table of [this.scheme.table, this.scheme.nextTable])
        await removeTable(this.socket, family, table);
    if (this.scheme === NFT_SCHEME && !this.traffic()) await this.counting.remove();
    const remains = await KernelRemains.of(this.mode, this.netns, state, { share, counting: this.counting });
    this.kernels = [];
    await this.close();
    return remains;
  }

  /** From whatever is there to `state`: adopts a table of the same skeleton, replaces any other without a gap. */
  private async bring(state: DesiredState, remembered: Remembered): Promise<ApplyResult> {
    this.node = state.node;
    const results: ApplyResult[] = [];
    const changes = ownersOf(state);
    const missing: Family[] = [];
    const kernels = new Map<Family, FamilyKernel>();
    for (const family of FAMILIES) {
      const kernel = this.kernelOf(family, this.scheme.table);
      const names = await this.names(family, this.scheme.table);
      const adopted = await this.adopt(kernel, names, changes);
      if (!adopted) {
        missing.push(family);
        continue;
      }
      kernels.set(family, kernel);
      results.push(adopted);
      await removeTable(this.socket, family, this.scheme.nextTable);
    }
    for (const [family, kernel, result] of await this.build(missing, state, changes, remembered)) {
      kernels.set(family, kernel);
      results.push(result);
    }
    this.kernels = FAMILIES.map((family) => kernels.get(family)!);
    return merge(results);
  }

  /** null: it is to be built, since none of ours is there, too much of it differs, or somebody takes it at this moment. */
  private async adopt(kernel: FamilyKernel, names: NameAnswer, changes: readonly OwnerChange[]) {
    try {
      if (!(await this.comparison.isOurs(kernel, names))) return null;
      return await withNftSocket(this.netns, (beside) => adoptTable(kernel, names, changes, beside));
    } catch (error) {
      goneMeanwhile(error);
      return null;
    }
  }

  private kernelOf(family: Family, name: string): FamilyKernel {
    const { scheme, companion } = this;
    return new FamilyKernel(family, this.socket, { scheme, name, companion });
  }

  /** What each family's table holds, as far as we know; empty before start(). */
  tables(): readonly FamilyKernel[] {
    return this.kernels;
  }

  private names(family: Family, table: string): Promise<NameAnswer> {
    return readNames(this.socket, NFPROTO[family], table);
  }

  private readonly markerOf = ({ family }: FamilyKernel, digest: string): string => {
    const { scheme } = this;
    const packed = new PackedWriter();
    scheme.writeRules?.(packed, family);
    const text = scheme.skeleton(scheme.table, family, this.node!.detector);
    return `${MARKER_PREFIX}${shortHash(text + packed.take().toString('hex'))}-${digest}`;
  };

  private async build(
    families: readonly Family[],
    state: DesiredState,
    changes: readonly OwnerChange[],
    remembered: Remembered,
  ): Promise<[Family, FamilyKernel, ApplyResult][]> {
    const replaced: Family[] = [];
    for (const family of families)
      if ((await this.names(family, this.scheme.table)).tableFlags === 0) replaced.push(family);
    // An old table goes on carrying traffic until a complete one takes over under another name; then ours is
    // made once more under its own.
    if (replaced.length > 0)
      await this.buildAs(this.scheme.nextTable, this.scheme.table, replaced, state, changes, remembered);
    return this.buildAs(this.scheme.table, this.scheme.nextTable, families, state, changes, remembered);
  }

  private async buildAs(
    table: string,
    other: string,
    families: readonly Family[],
    state: DesiredState,
    changes: readonly OwnerChange[],
    remembered: Remembered,
  ): Promise<[Family, FamilyKernel, ApplyResult][]> {
    if (families.length === 0) return [];
    for (const family of families) await removeTable(this.socket, family, table);
    const begun = await this.takeChild();
    await (begun?.isWaiting ? begun : new SkeletonChild(this.netns)).apply(
      families.map((family) => this.scheme.skeleton(table, family, state.node.detector)).join(''),
    );
    const built: [Family, FamilyKernel, ApplyResult][] = [];
    for (const family of families) {
      const kernel = this.kernelOf(family, table);
      const { writeRules } = this.scheme;
      if (writeRules) await kernel.must((out) => writeRules(out, family));
      const digest = staticDigest(
        await this.names(family, table),
        await this.socket.dumpRules(kernel.proto, table),
      );
      await kernel.must((out) => writeNamed(out, OP.addChain, this.markerOf(kernel, digest)));
      const result = await kernel.apply(changes);
      await writeAffinities(kernel, await remembered());
      const otherExists = (await this.names(family, other)).tableFlags >= 0;
      await kernel.must((out) => {
        writeTableFlags(out, table, 0);
        if (otherExists) writeNamed(out, OP.delTable, other);
      });
      built.push([family, kernel, result]);
    }
    return built;
  }

  async apply(change: DesiredChange, state: DesiredState): Promise<ApplyResult> {
    if (change.node && this.needsOtherRules(change.node)) return this.start(state);
    const changes: OwnerChange[] = [];
    if (change.node) changes.push({ owner: '', next: change.node });
    for (const owner of change.remove) changes.push({ owner, next: null });
    for (const service of change.set) changes.push({ owner: service.key, next: service });
    this.node = state.node;
    return changes.length > QUIET_FROM_SERVICES
      ? this.quietly(() => this.applyOwners(changes, state))
      : this.applyOwners(changes, state);
  }

  /** Most changes of the detector are elements; some change what the static rules say, in one family or both. */
  private needsOtherRules(next: DesiredNode): boolean {
    const rules = (family: Family, node: DesiredNode | null) =>
      node && this.scheme.skeleton(this.scheme.table, family, node.detector);
    return FAMILIES.some((family) => rules(family, next) !== rules(family, this.node));
  }

  private async applyOwners(changes: readonly OwnerChange[], state: DesiredState): Promise<ApplyResult> {
    try {
      const results: ApplyResult[] = [];
      for (const kernel of this.kernels) {
        await kernel.deleteIdleChains();
        results.push(await kernel.apply(changes));
      }
      return merge(results);
    } catch (error) {
      // The kernel is not as we believe (a flushed table, an element that somebody took): look and repair.
      if (error instanceof TriplaneError && error.code === 'TP_KERNEL_REFUSED') return this.start(state);
      throw error;
    }
  }

  /** The kernel builds no notifications for us meanwhile; whatever others did is looked for afterwards. */
  private async quietly<T>(work: () => Promise<T>): Promise<T> {
    this.monitor.pause();
    try {
      return await work();
    } finally {
      this.monitor.resume();
      this.onForeignChange();
    }
  }

  /** By a socket of its own. */
  survey(): Promise<boolean> {
    const looking = withNftSocket(this.netns, (socket) =>
      this.isAllSame(new Comparison(socket, this.markerOf)),
    );
    this.surveying = looking.then(
      () => {},
      () => {},
    );
    return looking;
  }
  private surveying: Promise<void> = Promise.resolve();

  private async isAllSame(comparison: Comparison): Promise<boolean> {
    const { kernels } = this;
    for (const kernel of kernels) if (!(await comparison.isSame(kernel))) return false;
    // Made anew meanwhile, others count.
    return kernels === this.kernels && (await this.counting.isAsMade());
  }

  async verify(state: DesiredState): Promise<VerifyResult> {
    const repaired: string[] = [];
    for (const kernel of this.kernels) {
      await kernel.deleteIdleChains();
      const found = await this.comparison.differences(kernel);
      repaired.push(...found.map((what) => `IPv${kernel.family}: ${what}`));
    }
    if (repaired.length > 0) await this.start(state);
    if (this.scheme === NFT_SCHEME) repaired.push(...(await this.counting.repair(state)));
    return { repaired };
  }

  async close(): Promise<void> {
    (await this.takeChild())?.end();
    await this.surveying;
    this.monitor.close();
    this.socket.close();
  }
}

function ownersOf(state: DesiredState): OwnerChange[] {
  const changes: OwnerChange[] = [{ owner: '', next: state.node }];
  for (const service of state.services.values())
    changes.push({ owner: service.key, next: service satisfies DesiredService });
  return changes;
}

function merge(results: readonly ApplyResult[]): ApplyResult {
  const refusals: Refusal[] = results.flatMap((r) => r.refusals);
  return { operations: results.reduce((sum, r) => sum + r.operations, 0), refusals };
}
