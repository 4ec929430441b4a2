/** Whether a family's table in the kernel is what we believe it to be. */
import { setTimeout as sleep } from 'node:timers/promises';
import { parsePickChain, pickChainRules } from './chains.ts';
import type { FamilyKernel } from './family-kernel.ts';
import { goneMeanwhile } from './kernel-errors.ts';
import { comparableSets, hasAllSets, staticDigest } from './kernel-image.ts';
import { GUARD_CHECK } from './layout.ts';
import type { NameAnswer, NftSocket } from './native.ts';

const LOOKS_MAX = 3;
const LOOK_AGAIN_MS = 50;

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

  /**
   * Whether nothing differs, while changes may go in: then each part is looked at again, a few times. False: something does,
   * or did each time.
   */
  async isSame(kernel: FamilyKernel): Promise<boolean> {
    try {
      let names: NameAnswer | null = null;
      const isFrameSame = async () => {
        const frame = await this.#frame(kernel);
        names = frame.names;
        return frame.found.length === 0;
      };
      if (!(await steadily(kernel, isFrameSame)) || names === null) return false;
      for (const set of comparableSets(kernel.table.layouts, names))
        if (!(await steadily(kernel, () => this.#looksExpected(kernel, set)))) return false;
      return true;
    } catch (error) {
      goneMeanwhile(error);
      return false;
    }
  }

  /** All but the elements. `names` null: these need not be asked for. */
  async #frame(kernel: FamilyKernel): Promise<{ found: string[]; names: NameAnswer | null }> {
    const names = await this.#socket.dumpNames(kernel.proto, kernel.name);
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
    const wanted = new Map(
      picks.inUse().map((name) => [name, pickChainRules(kernel.family, parsePickChain(name)!)]),
    );
    wanted.set(GUARD_CHECK, kernel.table.rangeLengths().length + 1);
    for (const { chain } of await this.#socket.dumpRules(kernel.proto, kernel.name)) {
      const left = wanted.get(chain);
      if (left !== undefined) wanted.set(chain, left - 1);
    }
    return [...wanted].filter(([, left]) => left !== 0).map(([name]) => `rules of ${name} were changed`);
  }

  /** A dump that meets a hash table while it grows may show elements twice or not at all: look again before believing it. */
  async #holdsExpected(kernel: FamilyKernel, set: number): Promise<boolean> {
    for (let look = 0; look < LOOKS_MAX; look++) {
      if (look > 0) await sleep(LOOK_AGAIN_MS);
      if (await this.#looksExpected(kernel, set)) return true;
    }
    return false;
  }

  async #looksExpected(kernel: FamilyKernel, set: number): Promise<boolean> {
    const before = kernel.sums[set];
    const { layouts } = kernel.table;
    const answer = await this.#socket.dumpElements(kernel.proto, kernel.name, layouts, set, true);
    // Of a dump beside a change, either is proof enough: no part of a change has the sum of all.
    return answer.strange === 0 && (answer.sum === before || answer.sum === kernel.sums[set]);
  }
}

/** What `look` says, of a moment without a change where it says no; no, where there is no such moment. */
async function steadily(kernel: FamilyKernel, look: () => Promise<boolean>): Promise<boolean> {
  for (let tries = 0; tries < LOOKS_MAX; tries++) {
    const { commits } = kernel;
    if (await look()) return true;
    if (tries > 0 && commits === kernel.commits) return false;
    await sleep(LOOK_AGAIN_MS);
  }
  return false;
}
