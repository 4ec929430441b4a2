/** Desired states as tests need them: differences between two, and services by hand. */
import type { DesiredChange, DesiredService, DesiredState } from '../../src/model/desired.ts';
import { same } from '../../src/model/same.ts';

export function changeBetween(before: DesiredState, after: DesiredState): DesiredChange {
  const set = [...after.services.values()].filter(
    (service) => !same(before.services.get(service.key), service),
  );
  const remove = [...before.services.keys()].filter((key) => !after.services.has(key));
  return same(before.node, after.node) ? { set, remove } : { set, remove, node: after.node };
}

/** A state that does not change with the model that made it. */
export function snapshot(state: DesiredState): DesiredState {
  return { services: new Map(state.services), node: state.node };
}

export function stateOf(services: readonly DesiredService[], node: DesiredState['node']): DesiredState {
  return { services: new Map(services.map((service) => [service.key, service])), node };
}
