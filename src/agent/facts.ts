/** From configuration, this node's record and the machine's addresses to what the model wants to know. */
import type { Config } from '../config/config.ts';
import type { NodeFacts } from '../model/change.ts';
import type { Address, Family, NodeRecord } from '../model/records.ts';
import type { NodeAddress } from '../node/addresses.ts';
import { detectNodeIPs, nodePortAddresses } from '../node/node-ips.ts';

/** What is known of the machine's own addresses. */
export interface MachineAddresses {
  readonly all: readonly NodeAddress[];
  /** Of the interface that the default route leaves by. */
  readonly defaults: Readonly<Record<Family, Address | null>>;
}

type Settings = Pick<Config, 'bindAddress' | 'nodePortAddresses'>;

export function nodeFacts(config: Settings, node: NodeRecord | null, machine: MachineAddresses): NodeFacts {
  const nodeIPs = detectNodeIPs({
    bindAddress: config.bindAddress,
    nodeAddresses: node?.addresses ?? [],
    defaults: machine.defaults,
  });
  const { byFamily, primaryFamily } = nodeIPs;
  const order: readonly Family[] = primaryFamily === 4 ? [4, 6] : [6, 4];
  const setting = config.nodePortAddresses.by === 'primary' ? 'primary' : config.nodePortAddresses.cidrs;
  const ports = nodePortAddresses(setting, nodeIPs, machine.all);
  return {
    nodeAddresses: order.flatMap((family) => byFamily[family] ?? []),
    nodePortAddresses: [...ports[4], ...ports[6]],
  };
}
