/** Sizes of the desired state, for metrics and `triplane get node`. */
import type { DesiredPort, DesiredState } from '../model/desired.ts';
import type { Family } from '../model/records.ts';
import type { Counts } from './status.ts';

export type DesiredCounts = Omit<Counts, 'serviceChangesPending' | 'endpointChangesPending'>;

const POLICIES = ['internal', 'external'] as const;

/** True when the policy is Local and has endpoints somewhere but none here: then the answer is a drop. */
function withoutLocal(port: DesiredPort, policy: 'internal' | 'external'): boolean {
  return port.frontends.some((frontend) =>
    policy === 'internal'
      ? frontend.kind === 'ClusterIP' && frontend.inside === 'drop'
      : frontend.kind !== 'ClusterIP' && frontend.outside === 'drop',
  );
}

export function countDesired(state: DesiredState): DesiredCounts {
  let frontends = 0;
  let backends = 0;
  const without = new Map<string, number>();
  for (const service of state.services.values()) {
    for (const port of service.ports) {
      frontends += port.frontends.length;
      backends += port.cluster.length + port.local.length;
      for (const policy of POLICIES) {
        if (!withoutLocal(port, policy)) continue;
        const key = `${policy} ${port.family}`;
        without.set(key, (without.get(key) ?? 0) + 1);
      }
    }
  }
  const noLocalEndpoints = POLICIES.flatMap((policy) =>
    ([4, 6] satisfies Family[]).map((family) => ({
      policy,
      family: family as Family,
      services: without.get(`${policy} ${family}`) ?? 0,
    })),
  );
  return { services: state.services.size, frontends, backends, noLocalEndpoints };
}
