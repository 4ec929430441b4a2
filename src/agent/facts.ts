/** From configuration, this node's record and the machine's addresses to what the model wants to know. */
import type { Config } from '../config/config.ts';
import type { ModelConfig, NodeFacts } from '../model/change.ts';
import type { Address, Family, NodeRecord } from '../model/records.ts';
import type { NodeAddress } from '../node/addresses.ts';
import { detectNodeIPs, type NodeIPs, nodePortAddresses, nodePortCidrs } from '../node/node-ips.ts';

/** What is known of the machine's own addresses. */
export interface MachineAddresses {
  readonly all: readonly NodeAddress[];
  /** Of the interface that the default route leaves by. */
  readonly defaults: Readonly<Record<Family, Address | null>>;
}

type Settings = Pick<Config, 'bindAddress' | 'nodePortAddresses'>;

const ANY: Readonly<Record<Family, Address>> = { 4: '0.0.0.0' as Address, 6: '::' as Address };

export function nodeIPsOf(
  config: Pick<Config, 'bindAddress'>,
  node: NodeRecord | null,
  machine: MachineAddresses,
): NodeIPs {
  return detectNodeIPs({
    bindAddress: config.bindAddress,
    nodeAddresses: node?.addresses ?? [],
    defaults: machine.defaults,
  });
}

function settingOf({ nodePortAddresses: setting }: Settings) {
  return setting.by === 'primary' ? 'primary' : setting.cidrs;
}

export function nodeFacts(config: Settings, node: NodeRecord | null, machine: MachineAddresses): NodeFacts {
  const nodeIPs = nodeIPsOf(config, node, machine);
  const { byFamily, primaryFamily } = nodeIPs;
  const order: readonly Family[] = primaryFamily === 4 ? [4, 6] : [6, 4];
  const ports = nodePortAddresses(settingOf(config), nodeIPs, machine.all);
  return {
    nodeAddresses: order.flatMap((family) => byFamily[family] ?? []),
    nodePortAddresses: [...ports[4], ...ports[6]],
  };
}

/**
 * Where health checks of services listen: as NodePorts do, by kube-proxy's rule (service_health.go): a family
 * without a range, or with none of this node's addresses in it, on all addresses.
 */
export function healthCheckAddresses(
  config: Settings,
  node: NodeRecord | null,
  machine: MachineAddresses,
): readonly Address[] {
  const nodeIPs = nodeIPsOf(config, node, machine);
  const cidrs = nodePortCidrs(settingOf(config), nodeIPs);
  const ports = nodePortAddresses(settingOf(config), nodeIPs, machine.all);
  return ([4, 6] satisfies Family[]).flatMap((family): readonly Address[] => {
    const everywhere = cidrs[family].some((cidr) => cidr.endsWith('/0'));
    return everywhere || ports[family].length === 0 ? [ANY[family]] : ports[family];
  });
}

/** The part of the configuration that the model goes by. */
export function modelConfig(config: Config, nodeName: string): ModelConfig {
  return {
    nodeName,
    masqueradeAll: config.masqueradeAll,
    serviceCIDRs: config.serviceCIDRs,
    externalIPCidrs: config.externalIPCidrs,
    detectMode: config.detectLocalMode,
    clusterCIDRs: config.clusterCIDRs,
    bridge: config.podBridgeInterface,
    prefix: config.podInterfaceNamePrefix,
  };
}
