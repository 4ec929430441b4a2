/**
 * Which mode is wanted, and by whom: the configuration, the annotation on this Node (it speaks of this node alone, so it
 * goes before the configuration), or a person at the admin socket, whose word holds until one of the others changes.
 */
import type { Mode } from '../dataplane/dataplane.ts';
import { TriplaneError } from '../model/errors.ts';
import { probeForAuto } from '../probe/probe.ts';
import type { Handover } from './handover.ts';
import type { Log, SwitchResult } from './status.ts';

/** As an annotation: triplane.dev/proxy-mode. */
export const MODE_SETTING = 'proxy-mode';
const MODES: readonly string[] = ['auto', 'nft', 'ipvs', 'ebpf'] satisfies (Mode | 'auto')[];

type Wanted = Mode | 'auto';

export interface ModeParts {
  readonly handover: Handover;
  readonly log: Log;
  /** The mode or its reason is another one. */
  readonly onSettled: () => void;
}

interface Wish {
  readonly mode: Wanted;
  readonly reason: string;
}

export class ModeControl {
  readonly #parts: ModeParts;
  #configured: Wanted;
  #annotated: Wanted | null = null;
  #annotation = '';
  /** The latest wish that has not been met. */
  #wish: Wish | null = null;
  #following: Promise<void> | null = null;
  /** One line: why this mode. */
  reason: string;
  /** Why the last switch that was tried failed; '': it did not. */
  failure = '';

  constructor(parts: ModeParts, configured: Wanted, reason: string) {
    this.#parts = parts;
    this.#configured = configured;
    this.reason = reason;
  }

  /** What was asked for, by the Node or by the configuration. */
  get requested(): Wanted {
    return this.#annotated ?? this.#configured;
  }

  configure(mode: Wanted): void {
    if (mode === this.#configured) return;
    this.#configured = mode;
    if (this.#annotated !== null) {
      this.#parts.log.info(
        { configured: mode, annotated: this.#annotated },
        'the annotation of this Node goes before the changed configuration',
      );
      return;
    }
    this.#follow({ mode, reason: 'asked for by the configuration' });
  }

  /** `value` undefined: the Node has no such annotation. */
  annotate(value: string | undefined): void {
    if ((value ?? '') === this.#annotation) return;
    this.#annotation = value ?? '';
    if (value !== undefined && !MODES.includes(value)) {
      this.#parts.log.warn(
        { value, modes: MODES },
        `the annotation triplane.dev/${MODE_SETTING} of this Node names no mode; it changes nothing`,
      );
      return;
    }
    this.#annotated = (value as Wanted | undefined) ?? null;
    const reason = `asked for by ${value === undefined ? 'the configuration' : 'the annotation of this Node'}`;
    this.#follow({ mode: this.requested, reason });
  }

  /** Throws what Handover.switchTo() does. */
  ask(mode: Wanted): Promise<SwitchResult> {
    return this.#go({ mode, reason: 'asked for by triplane switch' });
  }

  async #go({ mode, reason }: Wish): Promise<SwitchResult> {
    const { handover, log } = this.#parts;
    const from = handover.mode;
    try {
      const chosen = mode === 'auto' ? await bestMode() : { mode, reason };
      if (chosen.mode !== from) log.info({ from, to: chosen.mode, reason }, 'switching');
      const result = await handover.switchTo(chosen.mode);
      this.reason = chosen.reason;
      this.failure = '';
      this.#parts.onSettled();
      if (result.from !== result.to)
        log.info({ ...result, durationMs: Math.round(result.durationMs) }, 'switched');
      return result;
    } catch (error) {
      this.failure = `a switch to ${mode} failed: ${(error as Error).message}`;
      log.error(
        { err: error, wanted: mode, mode: handover.mode },
        'the switch failed; the mode stays as it was',
      );
      throw error;
    }
  }

  /** In the background, and the latest wish only. */
  #follow(wish: Wish): void {
    this.#wish = wish;
    this.#following ??= this.#meetWishes().finally(() => {
      this.#following = null;
    });
  }

  async #meetWishes(): Promise<void> {
    await this.#parts.handover.settled();
    while (this.#wish) {
      const wish = this.#wish;
      this.#wish = null;
      // It is in the log, and in the status; the next word may be another.
      await this.#go(wish).catch(() => {});
      await this.#parts.handover.settled();
    }
  }

  async close(): Promise<void> {
    this.#wish = null;
    await this.#following;
  }
}

/** What 'auto' means here and now. */
async function bestMode(): Promise<{ mode: Mode; reason: string }> {
  const { mode, reason } = (await probeForAuto()).auto;
  if (mode === '') throw new TriplaneError('TP_NO_FEATURE', `no mode can run here: ${reason}`);
  return { mode, reason };
}
