/** The dataplanes under test, each on a node of its own, and how their kernel state is compared with a fresh start. */
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import type { Dataplane } from '../../../src/dataplane/dataplane.ts';
import { cleanupEbpf } from '../../../src/dataplane/ebpf/cleanup.ts';
import { TIMEOUT_FILES } from '../../../src/dataplane/ebpf/collector.ts';
import { withTables } from '../../../src/dataplane/ebpf/drain.ts';
import { EbpfDataplane } from '../../../src/dataplane/ebpf/ebpf-dataplane.ts';
import { familiesOf, podsKnownIn } from '../../../src/dataplane/ebpf/node-settings.ts';
import { Generation, generations } from '../../../src/dataplane/ebpf/pins.ts';
import { cleanupNft } from '../../../src/dataplane/nft/cleanup.ts';
import { NftDataplane } from '../../../src/dataplane/nft/nft-dataplane.ts';
import { runProgram } from '../../../src/lab/run.ts';
import type { DesiredChange, DesiredState } from '../../../src/model/desired.ts';
import { loadNative } from '../../../src/node/native.ts';
import { SMALL } from '../../support/bpf-world.ts';
import { type Bench, meaning, openBench, Subject as Tables, wipe } from '../../support/ebpf-tables.ts';
import type { FlowOutcome } from '../../support/flow-engine.ts';
import { FlowWorld } from '../../support/flow-world.ts';
import { type Bare, bareNamespaces } from '../../support/namespaces.ts';
import { tableLines } from '../../support/nft-table.ts';
import type { PlannedFlow } from './flows.ts';

export type FuzzMode = 'nft' | 'ebpf' | 'ipvs';

/** A dataplane that carries the traffic of a world. */
export abstract class Subject {
  readonly world: FlowWorld;
  abstract readonly mode: FuzzMode;
  protected dataplane: Dataplane | null = null;
  /** How long some of a change may come after the rest. */
  protected readonly settleMs: number = 0;

  constructor(world: FlowWorld) {
    this.world = world;
  }

  protected abstract open(): Dataplane;
  /** What the kernel holds, and what it would hold after a fresh start from this state. */
  protected abstract images(
    state: DesiredState,
  ): Promise<{ readonly lived: unknown; readonly fresh: unknown }>;
  abstract remove(): Promise<void>;

  /** Whether a client port used toward two destinations at a time is told apart. */
  readonly twins: boolean = true;

  /** Outcomes that are right in this mode beside what decide() says; its page in docs/ says why. */
  accepts(_flow: PlannedFlow): readonly string[] {
    return [];
  }

  /** Whether what judge() complains about is right in this mode; its page in docs/ says why. */
  excuses(_flow: PlannedFlow, _outcome: FlowOutcome): boolean {
    return false;
  }

  /** Opens it where nothing or a predecessor was. Complaints, one line each. */
  async start(state: DesiredState): Promise<string[]> {
    await this.dataplane?.close();
    this.dataplane = this.open();
    const { refusals } = await this.dataplane.start(state);
    return refusals.map(({ service, reason }) => `refused: ${service} ${reason}`);
  }

  /** As start(), where a predecessor left this very state: nothing is to be done. */
  async restart(state: DesiredState): Promise<string[]> {
    await this.dataplane?.close();
    this.dataplane = this.open();
    const { operations, refusals } = await this.dataplane.start(state);
    const complaints = refusals.map(({ service, reason }) => `refused: ${service} ${reason}`);
    // What was still to come a little later is done by the successor.
    if (operations !== 0 && this.settleMs === 0)
      complaints.push(`a restart over the same state changed ${operations} objects`);
    return complaints;
  }

  async apply(change: DesiredChange, state: DesiredState): Promise<string[]> {
    const { refusals } = await this.dataplane!.apply(change, state);
    return refusals.map(({ service, reason }) => `refused: ${service} ${reason}`);
  }

  /** The node's own addresses have changed: what the agent does about it beside changes of the state. */
  async followAddresses(_state: DesiredState): Promise<void> {}

  /** The kernel holds exactly what a fresh start makes. */
  async compare(state: DesiredState): Promise<string[]> {
    const { repaired } = await this.dataplane!.verify(state);
    const complaints = repaired.map((line) => `verify() repaired: ${line}`);
    const end = performance.now() + this.settleMs;
    for (;;) {
      const { lived, fresh } = await this.images(state);
      const [left, right] = [JSON.stringify(lived, null, 1), JSON.stringify(fresh, null, 1)];
      if (left === right) return complaints;
      if (performance.now() > end)
        return [...complaints, `not what a fresh start makes:\n${firstDifference(left, right)}`];
    }
  }
}

/** The node's own, so that connection tracking is at work and what goes past its mind is seen. */
const FIREWALL = `table inet foreign {
  chain forward { type filter hook forward priority 0; ct state invalid drop; }
}`;

async function guardedWorld(cgroup: 'cgroup' | 'none'): Promise<FlowWorld> {
  const world = await FlowWorld.create(cgroup);
  const { status, stderr } = await runProgram(
    'nsenter',
    [`--net=${world.file('node')}`, 'nft', '-f', '-'],
    FIREWALL,
  );
  if (status !== 0) throw new Error(stderr);
  return world;
}

function firstDifference(lived: string, fresh: string): string {
  const [a, b] = [lived.split('\n'), fresh.split('\n')];
  const at = a.findIndex((line, i) => line !== b[i]);
  const window = (lines: string[]) => lines.slice(Math.max(0, at - 3), at + 6).join('\n');
  return `after the history:\n${window(a)}\nafter a fresh start:\n${window(b)}`;
}

/** A mode that can work in any namespace: a fresh start is made in another one beside the world's node. */
export abstract class NamespaceSubject extends Subject {
  readonly #bare: Bare;

  constructor(world: FlowWorld, bare: Bare) {
    super(world);
    this.#bare = bare;
  }

  protected abstract openIn(netns: string): Dataplane;
  protected abstract cleanup(netns: string): Promise<unknown>;
  /** What the kernel holds there, without what is of a history. */
  protected abstract image(netns: string): Promise<unknown>;

  protected open(): Dataplane {
    return this.openIn(this.world.file('node'));
  }

  protected async images(state: DesiredState): Promise<{ lived: unknown; fresh: unknown }> {
    const [netns = ''] = this.#bare.paths;
    await this.cleanup(netns);
    const other = this.openIn(netns);
    try {
      await other.start(state);
      return { lived: await this.image(this.world.file('node')), fresh: await this.image(netns) };
    } finally {
      await other.close();
    }
  }

  async remove(): Promise<void> {
    await this.dataplane?.close();
    this.#bare.remove();
    await this.world.remove();
  }
}

export class NftSubject extends NamespaceSubject {
  readonly mode = 'nft';
  protected readonly cleanup = cleanupNft;
  protected readonly image = tableLines;

  static async create(): Promise<NftSubject> {
    return new NftSubject(await guardedWorld('none'), await bareNamespaces(1));
  }

  protected openIn(netns: string): Dataplane {
    return new NftDataplane({ netns });
  }
}

const ROOT = `/sys/fs/bpf/tpfuzz${process.pid}`;
const SIZES = { ...SMALL, connections: 65_536, affinities: 4096 };

/** This process enters the node's namespace for good: the mode works where its process is. */
export class EbpfSubject extends Subject {
  readonly mode = 'ebpf';
  /**
   * What is made laxer comes a second after the pool, and what went is forgotten when no connection refers to it
   * (docs/ebpf.md): on a busy machine.
   */
  protected override readonly settleMs = 20_000;
  readonly #bench: Bench;
  readonly #home = openSync('/proc/self/ns/net', 'r');
  readonly #socketLb: 'all' | 'host' | 'off';

  private constructor(world: FlowWorld, bench: Bench, socketLb: 'all' | 'host' | 'off') {
    super(world);
    this.#bench = bench;
    this.#socketLb = socketLb;
  }

  static async create(socketLb: 'all' | 'host' | 'off'): Promise<EbpfSubject> {
    const subject = new EbpfSubject(await guardedWorld('cgroup'), await openBench(), socketLb);
    enter(subject.world.file('node'));
    return subject;
  }

  protected open(): Dataplane {
    const cgroup = this.world.cgroup ?? '';
    // XDP asks whether rules of the node would be passed by; here the answer is to be the same in both tables.
    const choices = { socketLb: this.#socketLb, xdpForward: 'never' } as const;
    return new EbpfDataplane({ root: ROOT, cgroup, sizes: SIZES, ...choices });
  }

  /** The dataplane hears of them by itself, and waits a moment for more. */
  override async followAddresses(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 200));
  }

  /** By its own socket a pod reaches itself as itself where its endpoint names no node (docs/ebpf.md). */
  override excuses({ packet, flow, verdict }: PlannedFlow, { outcome, at, peer }: FlowOutcome): boolean {
    if (flow.via !== 'socket' || outcome !== 'ok' || peer !== packet.source || verdict.action !== 'forward')
      return false;
    const own = verdict.backends.find(({ address, port }) => at === `${address} ${port}`);
    return own !== undefined && own.address === packet.source && !own.local;
  }

  override async compare(state: DesiredState): Promise<string[]> {
    const restore = endConnections();
    try {
      return await super.compare(state);
    } finally {
      restore();
    }
  }

  protected async images(state: DesiredState): Promise<{ lived: unknown; fresh: unknown }> {
    await new Promise((resolve) => setTimeout(resolve, 100));
    (this.dataplane as EbpfDataplane).collect();
    const number = generations(ROOT).at(-1)!;
    const lived = withTables(new Generation(ROOT, number), meaning);
    wipe(this.#bench);
    const other = new Tables(this.#bench.maps, familiesOf(state.node), podsKnownIn(state.node));
    other.bring(state);
    const fresh = meaning(this.#bench.maps);
    other.clock.close();
    return { lived, fresh };
  }

  async remove(): Promise<void> {
    await this.dataplane?.close();
    cleanupEbpf(ROOT);
    this.#bench.close();
    enter(`/proc/self/fd/${this.#home}`);
    closeSync(this.#home);
    await this.world.remove();
  }
}

/** Every connection ends in a moment, where this process is. @returns what brings the time-outs back */
function endConnections(): () => void {
  const before = TIMEOUT_FILES.map(([name]) => `/proc/sys/net/netfilter/nf_conntrack_${name}`)
    .filter((file) => existsSync(file))
    .map((file) => [file, readFileSync(file, 'utf8')] as const);
  for (const [file] of before) writeFileSync(file, '1');
  return () => {
    for (const [file, seconds] of before) writeFileSync(file, seconds);
  };
}

function enter(file: string): void {
  (loadNative() as { netnsEnter(path: string): void }).netnsEnter(file);
}
