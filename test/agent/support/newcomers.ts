/** New connections by every way, where a fault by itself loses some: those that were under way while it lasted, and no other. */
import type { Load } from '../../../src/lab/place.ts';
import type { RequestResult } from '../../../src/lab/results.ts';
import type { Way } from '../../support/answers.ts';
import type { SwitchWorld } from '../../support/switch-world.ts';

interface Fault {
  readonly loses: RegExp;
  readonly begin: number;
  end: number;
}

export class Newcomers {
  readonly #loads: { readonly way: Way; readonly load: Load }[] = [];
  readonly #faults: Fault[] = [];

  /** `rate` a second by each way, until stop(). */
  static async start(world: SwitchWorld, rate: number): Promise<Newcomers> {
    const some = new Newcomers();
    for (const way of world.lab.plan.families.flatMap((family) => world.ways(family))) {
      const options = { rate, close: 'fin', timeoutMs: 8000, durationMs: 170_000 } as const;
      some.#loads.push({ way, load: await way.from.load('tcp', way.address, way.port, options) });
    }
    return some;
  }

  /**
   * A fault from its cause until it is seen to be over.
   * @param loses of lines "TITLE: OUTCOME", what it may do to those who meet it
   */
  async during(loses: RegExp, fault: () => Promise<void>): Promise<void> {
    const one: Fault = { loses, begin: Date.now(), end: Number.POSITIVE_INFINITY };
    this.#faults.push(one);
    await fault();
    one.end = Date.now() + 1;
  }

  /** Ends them, and says what failed that no fault excuses, one line each. */
  async stop(): Promise<string[]> {
    const wrong: string[] = [];
    for (const { way, load } of this.#loads.splice(0)) {
      const { total } = await load.stop();
      if (total === 0) wrong.push(`${way.title}: nothing was sent`);
      for (const failure of load.failures) {
        const line = `${way.title}: ${failure.outcome}`;
        if (!this.#excused(line, failure)) wrong.push(`${line} ${JSON.stringify(failure)}`);
      }
    }
    return wrong;
  }

  #excused(line: string, { startRealMs, realMs }: RequestResult): boolean {
    return this.#faults.some(
      ({ loses, begin, end }) => realMs >= begin && startRealMs <= end && loses.test(line),
    );
  }
}
