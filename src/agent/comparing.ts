/** When the kernel is compared with what was applied, and which of the two ways to compare is taken. */
import type { Dataplane } from '../dataplane/dataplane.ts';
import type { DesiredState } from '../model/desired.ts';
import { Pace } from '../node/pace.ts';

/**
 * A comparison by the clock takes at most a two-hundredth of the time: it reads all that the kernel holds, and what survey()
 * leaves open holds up the changes that come meanwhile. Whoever else changes what is ours is noticed at once.
 */
const RESTS = 200;

export class Comparing {
  readonly #pace = new Pace({ rests: RESTS });
  readonly #onOpen: () => void;
  /** Somebody may have changed what is ours: rest or not. */
  #isAsked = false;
  /** The last survey could not say. */
  #isUnsure = false;
  #surveying: Promise<void> | null = null;

  /** @param onOpen a survey has ended after which another turn() is due */
  constructor(onOpen: () => void) {
    this.#onOpen = onOpen;
  }

  ask(): void {
    this.#isAsked = true;
  }

  /**
   * Compares, where it is time for that, and repairs; lines of what was repaired. Beside changes as far as the dataplane can,
   * in which case it is done later.
   * @param periodMs after which there is a turn in any case: one that would then be due is due now
   */
  async turn(dataplane: Dataplane, state: DesiredState, periodMs: number): Promise<readonly string[]> {
    if (!this.#isUnsure) {
      // What is asked for during a survey is for the next.
      if (this.#surveying || !(this.#isAsked || this.#pace.restMs < periodMs)) return [];
      this.#isAsked = false;
      if (this.#beginSurvey(dataplane)) return [];
    }
    this.#isUnsure = false;
    return (await this.#pace.turn(() => dataplane.verify(state))).repaired;
  }

  #beginSurvey(dataplane: Dataplane): boolean {
    const looking = dataplane.survey?.();
    if (!looking) return false;
    this.#surveying = this.#pace
      .turn(() => looking)
      // The comparison between changes will meet the same, and says so.
      .catch(() => false)
      .then((isSame) => {
        this.#surveying = null;
        this.#isUnsure = !isSame;
        if (this.#isUnsure || this.#isAsked) this.#onOpen();
      });
    return true;
  }

  /** When none is under way beside changes. */
  async ended(): Promise<void> {
    await this.#surveying;
  }
}
