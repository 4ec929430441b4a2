/** Whether a family's table in the kernel is what we believe it to be. */
import { setTimeout as sleep } from 'node:timers/promises';
import { parsePickChain, pickChainRules } from './chains.ts';
import type { FamilyKernel } from './family-kernel.ts';
import { goneMeanwhile } from './kernel-errors.ts';
import { comparableSets, hasAllSets, readNames, staticDigest } from './kernel-image.ts';
import { GUARD_CHECK } from './layout.ts';
import type { NameAnswer, NftSocket } from './native.ts';
import { sameShares } from './set-sums.ts';

const LOOKS_MAX = 3;
const LOOK_AGAIN_MS = 50;
/** At a hundred changes a second about half of the shares are right at each look. */
const SURVEY_LOOKS_MAX = 16;
/** What a look must leave less than, of what was open before it, for another one to be worth it. */
const HOPELESS = 0.8;

/** The name that a table has for its static rules, of which `digest` is one (kernel-image.ts). */
export type MarkerOf = (kernel: FamilyKernel, digest: string) => string;

export class Comparison {
  readonly #socket: NftSocket;
  readonly #markerOf: MarkerOf;

  /** @param socket in the network namespace of the tables that are compared; it serves one caller at a time */
  constructor(socket: NftSocket, markerOf: MarkerOf) {
    this.#socket = socket;
    this.#markerOf = markerOf;
  }

  /** Awake, of the skeleton that the marker speaks of, and with its static rules untouched. */
  async isOurs(kernel: FamilyKernel, names: NameAnswer): Promise<boolean> {
    if (names.tableFlags !== 0 || !hasAllSets(kernel.table.layouts, names)) return false;
    const rules = await this.#socket.dumpRules(kernel.proto, kernel.name);
    return names.chains.includes(this.#markerOf(kernel, staticDigest(names, rules)));
  }

  /** One line for each thing that differs. Nothing may change the table meanwhile, where its answer is to count. */
  async differences(kernel: FamilyKernel): Promise<string[]> {
    try {
      const { found, names } = await this.#frame(kernel);
      if (names === null) return found;
      for (const set of comparableSets(kernel.table.layouts, names))
        if (!(await this.#holdsExpected(kernel, set)))
          found.push(`elements of ${kernel.table.layouts[set]!.name} were changed`);
      return found;
    } catch (error) {
      return goneMeanwhile(error);
    }
  }

  /** Whether nothing differs, while changes may go in. False: something does, or too much changed meanwhile. */
  async isSame(kernel: FamilyKernel): Promise<boolean> {
    try {
      const names = await this.#steadyNames(kernel);
      if (names === null) return false;
      for (const set of comparableSets(kernel.table.layouts, names))
        if (!(await this.#isSetSame(kernel, set))) return false;
      return true;
    } catch (error) {
      // Commits, ours or others', crossed each of its tries.
      if ((error as { code?: string }).code !== 'EINTR') goneMeanwhile(error);
      return false;
    }
  }

  /** null: something differs beside the elements, or changed each time that it was looked. */
  async #steadyNames(kernel: FamilyKernel): Promise<NameAnswer | null> {
    for (let look = 0; look < SURVEY_LOOKS_MAX; look++) {
      const crossed = crossings(kernel);
      const { found, names } = await this.#frame(kernel);
      if (found.length === 0) return names;
      if (!crossed()) break;
    }
    return null;
  }

  /**
   * A dump that a change has crossed is wrong where it changed something, and, since the kernel goes on by counting elements,
   * for about as many others. Each share (set-sums.ts) need be right once: no part of its elements has the sum of all.
   */
  async #isSetSame(kernel: FamilyKernel, set: number): Promise<boolean> {
    const { layouts } = kernel.table;
    const now = kernel.sums.of(set);
    let open = Array.from(now.keys());
    for (let looks = 0, steadyLooks = 0; looks < SURVEY_LOOKS_MAX; looks++) {
      const crossed = crossings(kernel);
      const before = now.slice();
      const answer = await this.#socket.dumpElements(kernel.proto, kernel.name, layouts, set, true, true);
      if (answer.strange > 0) return false;
      const left = open.filter((share) => {
        const sum = answer.shares[share];
        return sum !== before[share] && sum !== now[share];
      });
      if (left.length === 0) return true;
      if (crossed()) {
        if (left.length > open.length * HOPELESS) return false;
        // A growing hash table may show elements twice or not at all, also where nothing has crossed it.
      } else if (++steadyLooks >= LOOKS_MAX) return false;
      open = left;
    }
    return false;
  }

  /** All but the elements. `names` null: these need not be asked for. */
  async #frame(kernel: FamilyKernel): Promise<{ found: string[]; names: NameAnswer | null }> {
    const names = await readNames(this.#socket, kernel.proto, kernel.name);
    if (names.tableFlags < 0) return { found: ['the table was gone'], names: null };
    if (!(await this.isOurs(kernel, names)))
      return { found: ['chains, rules or sets were changed'], names: null };
    const found: string[] = [];
    const { picks } = kernel.table;
    const inUse = new Set(picks.inUse());
    for (const name of inUse) if (!names.chains.includes(name)) found.push(`chain ${name} was gone`);
    for (const name of names.chains) {
      if (parsePickChain(name) && !inUse.has(name) && !picks.idle.has(name))
        found.push(`chain ${name} is not used`);
    }
    found.push(...(await this.#changedChains(kernel)));
    return { found, names };
  }

  /** Chains outside of the static rules, by their number of rules: what a flush or an added rule changes. */
  async #changedChains(kernel: FamilyKernel): Promise<string[]> {
    const { picks } = kernel.table;
    const wanted = new Map(picks.inUse().map((name) => [name, pickChainRules(parsePickChain(name)!)]));
    wanted.set(GUARD_CHECK, kernel.table.rangeLengths().length + 1);
    for (const { chain } of await this.#socket.dumpRules(kernel.proto, kernel.name)) {
      const left = wanted.get(chain);
      if (left !== undefined) wanted.set(chain, left - 1);
    }
    return [...wanted].filter(([, left]) => left !== 0).map(([name]) => `rules of ${name} were changed`);
  }

  /** A dump that meets a hash table while it grows may show elements twice or not at all: look again before believing it. */
  async #holdsExpected(kernel: FamilyKernel, set: number): Promise<boolean> {
    const { layouts } = kernel.table;
    for (let look = 0; look < LOOKS_MAX; look++) {
      if (look > 0) await sleep(LOOK_AGAIN_MS);
      const answer = await this.#socket.dumpElements(kernel.proto, kernel.name, layouts, set, true);
      if (answer.strange === 0 && sameShares(answer.shares, kernel.sums.of(set))) return true;
    }
    return false;
  }
}

/** Notes where commits are; what it returns says whether one has been under way since. */
function crossings(kernel: FamilyKernel): () => boolean {
  const { commits } = kernel;
  return () => commits !== kernel.commits || commits % 2 === 1;
}
