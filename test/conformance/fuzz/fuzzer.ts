/** Plays cases on all dataplanes at once, and says what differs from decide() in a form that can be played again. */
import process from 'node:process';
import fc from 'fast-check';
import { ClusterModel } from '../../../src/model/cluster.ts';
import type { DesiredState } from '../../../src/model/desired.ts';
import { type Address, type ClusterRecord, keyOf } from '../../../src/model/records.ts';
import { changeBetween, snapshot } from '../../support/desired.ts';
import { arbitraryCase, type Case } from './cases.ts';
import { AffinityMemory, judge, type PlannedFlow, planFlow } from './flows.ts';
import type { Subject } from './subjects.ts';

/** A counterexample that is not made smaller within this time is small enough. */
const SHRINK_MS = 60_000;

export interface FuzzOptions {
  readonly seed: number;
  readonly runs: number;
  /** Flows of each step. */
  readonly flows: number;
  /** Where a former run says its counterexample is. */
  readonly path?: string;
}

export interface FuzzReport {
  readonly cases: number;
  readonly steps: number;
  /** Per dataplane. */
  readonly flows: number;
  /** Empty: nothing was found. */
  readonly finding: string;
}

/** What a finding is about, to print it as a row of the table. */
interface Scene {
  readonly records: readonly ClusterRecord[];
  readonly config: unknown;
  readonly facts: unknown;
}

class Finding extends Error {}

/** The one case that was asked for has been played, and holds. */
class Played extends Error {}

function describeVerdict({ verdict }: PlannedFlow): string {
  if (verdict.action !== 'forward') return verdict.action;
  return `forward to ${verdict.backends.map(({ address, port, masquerade }) => `${address} ${port}${masquerade ? ' masqueraded' : ''}`).join(', ')}`;
}

/** To be pasted into test/model/conformance-found.ts. */
function asRow(scene: Scene, { packet, flow, verdict }: PlannedFlow): string {
  const to =
    verdict.action === 'forward'
      ? {
          to: verdict.backends.map(({ address, port }) => `${address} ${port}`).sort(),
          masquerade: 'yes|no|hairpin',
        }
      : verdict.action;
  return JSON.stringify({ ...scene, packet, expect: to, socket: flow });
}

export class Fuzzer {
  readonly #subjects: readonly Subject[];
  readonly #memories: ReadonlyMap<Subject, AffinityMemory>;
  #state: DesiredState | null = null;
  /** The addresses of the nodes, as one text. */
  #owned = '';
  cases = 0;
  steps = 0;
  flows = 0;

  constructor(subjects: readonly Subject[]) {
    this.#subjects = subjects;
    this.#memories = new Map(subjects.map((subject) => [subject, new AffinityMemory()]));
  }

  async #each(what: string, work: (subject: Subject) => Promise<string[]>): Promise<void> {
    // All come to an end, also when one throws: what it does next must not meet what it was doing.
    const complaints = await Promise.all(
      this.#subjects.map(async (subject) => {
        const lines = await work(subject).catch((error: unknown) => [
          error instanceof Error ? `${error.stack}` : String(error),
        ]);
        return lines.map((line) => `${subject.mode}: ${line}`);
      }),
    );
    if (complaints.flat().length === 0) return;
    // Whatever is there now, the next case begins with a new dataplane.
    this.#state = null;
    throw new Finding(`${what}\n${complaints.flat().join('\n')}`);
  }

  /** Leaves the kernel in the case's last state; the next case goes on from there. */
  async play(one: Case): Promise<void> {
    const model = new ClusterModel(one.config, one.facts);
    const records = new Map<string, ClusterRecord>();
    let { config, facts } = one;
    this.cases++;
    for (const memory of this.#memories.values()) memory.forget();
    for (const [number, step] of one.steps.entries()) {
      const what = `step ${number}`;
      for (const change of step.changes) {
        if (change.op === 'set') records.set(`${change.record.kind} ${keyOf(change.record)}`, change.record);
        else records.delete(`${change.kind} ${change.key}`);
      }
      if (step.config) {
        config = { ...config, ...step.config };
        model.setConfig(config);
      }
      if (step.facts) model.setFacts(step.facts);
      facts = step.facts ?? facts;
      model.apply(step.changes);
      model.produce();
      const moved = await this.#own(facts.nodeAddresses, what);
      await this.#bring(snapshot(model.state), what);
      if (moved === 'moved')
        await this.#each(`${what}, addresses`, async (subject) => {
          await subject.followAddresses(this.#state!);
          return [];
        });
      if (step.restart) await this.#each(`${what}, restart`, (subject) => subject.restart(this.#state!));
      const planned = step.flows
        .map((draft) => planFlow(draft, this.#state!, facts.nodeAddresses))
        .filter((flow) => flow !== null);
      await this.#send(planned, { records: [...records.values()], config, facts }, what);
    }
    await this.#each('at the end', (subject) => subject.compare(this.#state!));
  }

  async #own(addresses: readonly Address[], what: string): Promise<'moved' | 'same'> {
    // Their order says which is the primary one, which is the model's alone.
    const own = [...addresses].sort().join();
    if (own === this.#owned) return 'same';
    this.#owned = own;
    await this.#each(`${what}, addresses`, async (subject) => {
      await subject.world.own(addresses);
      return [];
    });
    for (const memory of this.#memories.values()) memory.forgetUnbound();
    return 'moved';
  }

  async #bring(next: DesiredState, what: string): Promise<void> {
    const before = this.#state;
    this.#state = next;
    if (before === null) await this.#each(`${what}, start`, (subject) => subject.start(next));
    else await this.#each(`${what}, change`, (subject) => subject.apply(changeBetween(before, next), next));
    for (const memory of this.#memories.values()) memory.follow(next);
  }

  async #send(planned: readonly PlannedFlow[], scene: Scene, what: string): Promise<void> {
    this.steps++;
    this.flows += planned.length;
    await this.#each(what, async (subject) => {
      const outcomes = await subject.world.run(
        planned.map(({ flow }) => ({ ...flow, twin: subject.twins && flow.twin === true })),
      );
      const loyal = this.#memories.get(subject)!.judge(planned, outcomes);
      return planned.flatMap((flow, i) => {
        const wrong = judge(flow, outcomes[i]!) ?? loyal[i];
        if (!wrong || subject.accepts(flow).includes(outcomes[i]!.outcome)) return [];
        if (subject.excuses(flow, outcomes[i]!)) return [];
        const { packet } = flow;
        const head = `${packet.protocol} ${packet.from} ${packet.source} (${flow.flow.from}, ${flow.flow.via}) -> ${packet.destination} ${packet.port}`;
        const why = flow.verdict.because.join('; ');
        return [
          `${head}: ${wrong}\n  decide(): ${describeVerdict(flow)} (${why})\n  row: ${asRow(scene, flow)}`,
        ];
      });
    });
  }

  /** Plays cases until one fails; that one is then made smaller. */
  async run({ seed, runs, flows, path }: FuzzOptions): Promise<FuzzReport> {
    const before = { cases: this.cases, steps: this.steps, flows: this.flows };
    let failedAt = 0;
    const property = fc.asyncProperty(arbitraryCase(flows), async (one) => {
      if (failedAt > 0 && performance.now() - failedAt > SHRINK_MS) return;
      try {
        await this.play(one);
        // Where it does not fail any more, its neighbours would be played, of which there are thousands.
        if (path?.includes(':')) throw new Played();
      } catch (error) {
        if (error instanceof Finding) {
          // Said at once: making it smaller may be cut off.
          if (failedAt === 0) process.stderr.write(`${error.message.slice(0, 4000)}\n`);
          failedAt ||= performance.now();
        }
        throw error;
      }
    });
    const details = await fc.check(property, {
      seed,
      numRuns: runs,
      ...(path === undefined ? {} : { path, endOnFailure: true }),
    });
    const report = {
      cases: this.cases - before.cases,
      steps: this.steps - before.steps,
      flows: this.flows - before.flows,
    };
    if (!details.failed || details.errorInstance instanceof Played) return { ...report, finding: '' };
    const error =
      details.errorInstance instanceof Error ? details.errorInstance : new Error('no reason given');
    if (!(error instanceof Finding)) throw error;
    const again = `npm run fuzz -- --seed ${seed} --path ${details.counterexamplePath}`;
    return {
      ...report,
      finding: `${error.message}\nagain: ${again}\n${JSON.stringify(details.counterexample)}`,
    };
  }
}
