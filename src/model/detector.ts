/**
 * From the configuration and this node's record to the local detector (kube-proxy's --detect-local-mode,
 * cmd/kube-proxy getLocalDetectors).
 */
import { familyOf, mergeCidrs } from './address.ts';
import type { LocalDetector } from './desired.ts';
import type { Cidr, Family } from './records.ts';

export interface DetectConfig {
  readonly detectMode: 'ClusterCIDR' | 'NodeCIDR' | 'BridgeInterface' | 'InterfaceNamePrefix';
  /** For 'ClusterCIDR'. Unlike kube-proxy, all of a family count, not only the first. */
  readonly clusterCIDRs: readonly Cidr[];
  /** For 'BridgeInterface'. */
  readonly bridge: string;
  /** For 'InterfaceNamePrefix'. */
  readonly prefix: string;
}

function byCidr(list: readonly Cidr[]): LocalDetector {
  return list.length > 0 ? { by: 'cidr', cidrs: mergeCidrs(list) } : { by: 'none' };
}

/** @param podCIDRs of this node's record; empty when it is not known (yet) */
export function makeDetector(config: DetectConfig, podCIDRs: readonly Cidr[]): LocalDetector {
  switch (config.detectMode) {
    case 'ClusterCIDR':
      return byCidr(config.clusterCIDRs);
    case 'NodeCIDR':
      return byCidr(podCIDRs);
    case 'BridgeInterface':
      return config.bridge === '' ? { by: 'none' } : { by: 'bridge', name: config.bridge };
    case 'InterfaceNamePrefix':
      return config.prefix === '' ? { by: 'none' } : { by: 'prefix', prefix: config.prefix };
  }
}

/**
 * Whether the detector can tell pods from others in this family. Where it cannot, nobody counts as a pod and
 * 'strangers' masquerades nobody: a detector by CIDR says nothing about a family of which it has no CIDR.
 */
export function detectorSpeaks(detector: LocalDetector, family: Family): boolean {
  if (detector.by === 'cidr') return detector.cidrs.some((cidr) => familyOf(cidr) === family);
  return detector.by !== 'none';
}
