/** What came out of the model and is not in the kernel yet. */
import type { ModelChange, Trigger } from '../model/change.ts';
import type { StaleFlow } from '../model/conntrack.ts';
import type { DesiredChange, DesiredState } from '../model/desired.ts';
import type { ObjectKey } from '../model/records.ts';

/**
 * Gathers changes over any number of failures without growing beyond the services, and the flows to clear,
 * that there are.
 */
export class Pending {
  /** True: to be set; false: to be removed. The later word counts. */
  private readonly services = new Map<ObjectKey, boolean>();
  private node = false;
  private readonly flowsByName = new Map<string, StaleFlow>();
  private readonly triggersByKey = new Map<ObjectKey, Trigger>();

  get isEmpty(): boolean {
    return this.services.size + this.flowsByName.size === 0 && !this.node;
  }

  /** Services that are set or removed. */
  get keys(): Iterable<ObjectKey> {
    return this.services.keys();
  }

  get hasNode(): boolean {
    return this.node;
  }

  get flows(): readonly StaleFlow[] {
    return [...this.flowsByName.values()];
  }

  /** The oldest of each service: how long it has really taken counts. */
  get triggers(): readonly Trigger[] {
    return [...this.triggersByKey.values()];
  }

  take(change: ModelChange): void {
    for (const { key } of change.set) this.services.set(key, true);
    for (const key of change.remove) this.services.set(key, false);
    if (change.node) this.node = true;
    this.addFlows(change.staleFlows);
    for (const trigger of change.triggers) this.addTrigger(trigger);
  }

  /** Takes over what came after this. */
  append(later: Pending): void {
    for (const [key, word] of later.services) this.services.set(key, word);
    this.node ||= later.node;
    this.addFlows(later.flowsByName.values());
    for (const trigger of later.triggersByKey.values()) this.addTrigger(trigger);
  }

  addFlows(flows: Iterable<StaleFlow>): void {
    for (const flow of flows) {
      const { protocol, address, port, backend, backendPort } = flow;
      this.flowsByName.set(`${protocol} ${address} ${port} ${backend} ${backendPort}`, flow);
    }
  }

  /** With the services as they are now. */
  changeOf(state: DesiredState): DesiredChange {
    const set = [];
    const remove = [];
    for (const [key, word] of this.services) {
      const service = word ? state.services.get(key) : undefined;
      if (service) set.push(service);
      else remove.push(key);
    }
    return this.node ? { set, remove, node: state.node } : { set, remove };
  }

  private addTrigger(trigger: Trigger): void {
    const known = this.triggersByKey.get(trigger.key);
    if (!known || trigger.triggerMs < known.triggerMs) this.triggersByKey.set(trigger.key, trigger);
  }
}
