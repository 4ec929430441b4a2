/** Flows in conntrack that lead where no new one would: finding them, and clearing them. */
import type { FlowTarget } from '../dataplane/dataplane.ts';
import { familyOf } from '../model/address.ts';
import type { ClusterModel } from '../model/cluster.ts';
import type { FlowProtocol, StaleFlow } from '../model/conntrack.ts';
import type { Family } from '../model/records.ts';
import { same } from '../model/same.ts';
import type { Flow } from '../node/conntrack.ts';
import { FlowSweep } from './flow-sweep.ts';
import type { ConntrackEvent, Log } from './status.ts';

/** What is used of the machine; src/agent/start.ts makes the real ones. */
export interface FlowParts {
  readonly log: Log;
  /** Clears the flows of one family from conntrack; resolves to how many there were. */
  readonly clearFlows: (family: Family, flows: readonly StaleFlow[]) => Promise<number>;
  /** The flows of a protocol in conntrack, in batches; of TCP those that nobody has answered. */
  readonly flows: (protocol: FlowProtocol) => AsyncIterable<readonly Flow[]>;
}

/** What is used of the handover. */
export interface Drains {
  /** What connection tracking is not to forget although it is untranslated there: Remains.untranslated(). */
  untranslated(): readonly FlowTarget[];
  /** Runs `work` while no switch is under way: in the middle of one, nobody can tell what is drained. */
  undisturbed<T>(work: () => Promise<T>): Promise<T>;
}

const FAMILIES: readonly Family[] = [4, 6];

export class StaleFlows {
  readonly sweep: FlowSweep;
  private readonly parts: FlowParts;
  private readonly model: Pick<ClusterModel, 'leadsAstray'>;
  private readonly drains: Drains;
  private readonly onCleared: (event: ConntrackEvent) => void;

  constructor(
    parts: FlowParts,
    model: Pick<ClusterModel, 'leadsAstray'>,
    drains: Drains,
    onCleared: (event: ConntrackEvent) => void,
  ) {
    this.parts = parts;
    this.model = model;
    this.drains = drains;
    this.onCleared = onCleared;
    this.sweep = new FlowSweep({
      log: parts.log,
      sweep: (protocol) => drains.undisturbed(() => this.clearStray(protocol)),
    });
  }

  /** UDP flows that a predecessor left. */
  async leftovers(): Promise<StaleFlow[]> {
    try {
      return await this.stray('UDP');
    } catch (error) {
      this.parts.log.warn({ err: error }, 'UDP flows that a predecessor left could not be looked at');
      return [];
    }
  }

  /**
   * Resolves to those that could not be cleared. Whatever the reason to clear a frontend's untranslated flows (at a
   * start, each is new), not while programs translate them after netfilter.
   */
  async clear(flows: readonly StaleFlow[]): Promise<StaleFlow[]> {
    const left: StaleFlow[] = [];
    const kept = new Set(
      flows.some(({ backend }) => backend === null) ? this.drains.untranslated().map(keyOf) : [],
    );
    const clearable = flows.filter((flow) => flow.backend !== null || !kept.has(keyOf(flow)));
    for (const family of FAMILIES) {
      const ofFamily = clearable.filter((flow) => familyOf(flow.address) === family);
      if (ofFamily.length === 0) continue;
      const began = performance.now();
      try {
        const deleted = await this.parts.clearFlows(family, ofFamily);
        this.onCleared({ family, deleted, durationMs: performance.now() - began });
      } catch (error) {
        // No reason to hold up the rules, which are right for everything new.
        for (const flow of ofFamily) left.push(flow);
        this.parts.log.error(
          { err: error, family, flows: ofFamily.length },
          'stale flows could not be cleared; trying again',
        );
      }
    }
    return left;
  }

  private async clearStray(protocol: FlowProtocol): Promise<void> {
    const left = await this.clear(await this.stray(protocol));
    if (left.length > 0) throw new Error(`${left.length} flows could not be cleared`);
  }

  /** Flows to frontends of ours that lead where no new one would. */
  private async stray(protocol: FlowProtocol): Promise<StaleFlow[]> {
    const stray: StaleFlow[] = [];
    // The programs are asked only when there is something to ask for: it means reading their whole table.
    let kept: Set<string> | null = null;
    for await (const flows of this.parts.flows(protocol)) {
      for (const { original, reply } of flows) {
        const destination = { address: original.destination, port: original.destinationPort };
        const answers = { address: reply.source, port: reply.sourcePort };
        if (!this.model.leadsAstray(protocol, destination, answers)) continue;
        const untranslated = same(destination, answers);
        if (untranslated) kept ??= new Set(this.drains.untranslated().map(keyOf));
        if (untranslated && kept!.has(keyOf({ protocol, ...destination }))) continue;
        stray.push({
          ...{ protocol, ...destination },
          backend: untranslated ? null : answers.address,
          backendPort: untranslated ? 0 : answers.port,
        });
      }
    }
    return stray;
  }
}

function keyOf({ protocol, address, port }: FlowTarget): string {
  return `${protocol} ${address} ${port}`;
}
