/**
 * What an operator should hear of a configuration that is valid and probably not meant: kube-proxy's checkBadConfig(),
 * checkBadIPConfig() and getLocalDetectors() (cmd/kube-proxy/app). It needs the Node, so it is said once that is known.
 */
import type { Config } from '../config/config.ts';
import { familyOf } from '../model/address.ts';
import type { Cidr, Family, NodeRecord } from '../model/records.ts';
import { nodePortWarnings } from '../node/node-ips.ts';
import { type MachineAddresses, nodeIPsOf } from './facts.ts';

type Settings = Pick<
  Config,
  'bindAddress' | 'nodePortAddresses' | 'detectLocalMode' | 'clusterCIDRs' | 'ipvsExcludeCIDRs'
>;

const has = (cidrs: readonly Cidr[], family: Family) => cidrs.some((cidr) => familyOf(cidr) === family);
const isDual = (cidrs: readonly Cidr[]) => has(cidrs, 4) && has(cidrs, 6);

/** One line each. */
export function configWarnings(
  config: Settings,
  node: NodeRecord | null,
  machine: MachineAddresses,
): string[] {
  const nodeIPs = nodeIPsOf(config, node, machine);
  const family = nodeIPs.primaryFamily;
  const { nodePortAddresses: setting, clusterCIDRs, detectLocalMode } = config;
  const podCIDRs = node?.podCIDRs ?? [];
  const given = setting.by === 'primary' ? [] : setting.cidrs;
  const dualStack = [clusterCIDRs, podCIDRs, given, config.ipvsExcludeCIDRs].some(isDual);
  const lines = nodePortWarnings(setting.by === 'primary' ? 'primary' : setting.cidrs, nodeIPs, {
    dualStack,
  });
  const blind = `pods are not told from others over IPv${family}, and no traffic to ClusterIPs is masqueraded there`;
  if (detectLocalMode === 'ClusterCIDR' && !has(clusterCIDRs, family)) {
    lines.push(
      `clusterCIDR has no IPv${family} range, and this node's primary address is of IPv${family}: ${blind}`,
    );
  }
  if (detectLocalMode === 'NodeCIDR' && !has(podCIDRs, family)) {
    lines.push(`the Node has no IPv${family} pod CIDR, and its primary address is of IPv${family}: ${blind}`);
  }
  return lines;
}
