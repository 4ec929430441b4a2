/**
 * Looks through conntrack for flows that lead where their frontend would not lead any more. Which these are is
 * asked of the model, flow by flow, so that it does not matter how many changes came before. A look costs a walk of
 * the kernel's whole table (5 ms for 262,144 buckets), so it comes at most once a second, and takes at most a
 * twentieth of a processor.
 */
import type { FlowProtocol } from '../model/conntrack.ts';
import { PacedTask } from '../node/paced-task.ts';
import type { Log } from './status.ts';

const RESTS = 20;
const LEAST_REST_MS = 1000;

export interface SweepParts {
  readonly log: Log;
  /** Clears what leads astray, of one protocol. Rejects when some of it could not be cleared. */
  readonly sweep: (protocol: FlowProtocol) => Promise<void>;
}

export class FlowSweep {
  private readonly parts: SweepParts;
  private wanted = new Set<FlowProtocol>();
  private readonly task = new PacedTask(() => this.run(), { rests: RESTS, leastMs: LEAST_REST_MS });

  constructor(parts: SweepParts) {
    this.parts = parts;
  }

  /** To be called when the kernel holds the rules that new connections go by. */
  request(...protocols: readonly FlowProtocol[]): void {
    for (const protocol of protocols) this.wanted.add(protocol);
    if (this.wanted.size > 0) this.task.request();
  }

  /**
   * The same, without any rest: rules were away, flows were begun without them all the while, and a client that gets
   * the port of one of these again is lost. A repair costs more than a look, so it bounds how often this comes.
   */
  requestAtOnce(...protocols: readonly FlowProtocol[]): void {
    for (const protocol of protocols) this.wanted.add(protocol);
    this.task.requestAtOnce();
  }

  /** Ends after what is under way. */
  async stop(): Promise<void> {
    await this.task.close();
  }

  private async run(): Promise<void> {
    const work = this.wanted;
    this.wanted = new Set();
    for (const protocol of work) {
      try {
        await this.parts.sweep(protocol);
      } catch (error) {
        this.parts.log.warn({ err: error, protocol }, 'flows in conntrack could not be looked through');
        this.request(protocol);
      }
    }
  }
}
