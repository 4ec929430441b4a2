/**
 * From configuration, this node's record and the machine's addresses to what the model wants to know. The
 * rules are kube-proxy's (cmd/kube-proxy/app: detectNodeIPs; pkg/proxy/util/nodeport_addresses.go).
 */
import type { Config } from '../config/config.ts';
import { cidrContains, familyOf, isLoopback } from '../model/address.ts';
import type { NodeFacts } from '../model/cluster.ts';
import type { Address, Cidr, Family, NodeRecord } from '../model/records.ts';

const FAMILIES: readonly Family[] = [4, 6];
const UNSPECIFIED: ReadonlySet<string> = new Set(['0.0.0.0', '::']);

/** What is known of the machine's own addresses. */
export interface MachineAddresses {
  /** All of them, loopback included. */
  readonly all: readonly Address[];
  /** Of the interface that the default route leaves by, at most one a family. */
  readonly primary: readonly Address[];
}

/** One primary address a family: --bind-address, else the Node object's, else the default route's. */
export function primaryAddresses(
  config: Pick<Config, 'bindAddress'>,
  node: NodeRecord | null,
  machine: MachineAddresses,
): Address[] {
  const bind: readonly Address[] = UNSPECIFIED.has(config.bindAddress) ? [] : [config.bindAddress];
  return FAMILIES.flatMap((family) => {
    const ofFamily = (list: readonly Address[]) => list.find((address) => familyOf(address) === family);
    return ofFamily(bind) ?? ofFamily(node?.addresses ?? []) ?? ofFamily(machine.primary) ?? [];
  });
}

export function nodeFacts(
  config: Pick<Config, 'bindAddress' | 'nodePortAddresses'>,
  node: NodeRecord | null,
  machine: MachineAddresses,
): NodeFacts {
  const nodeAddresses = primaryAddresses(config, node, machine);
  const setting = config.nodePortAddresses;
  const nodePortAddresses = setting.by === 'primary' ? nodeAddresses : within(setting.cidrs, machine.all);
  return { nodeAddresses, nodePortAddresses: nodePortAddresses.filter((address) => !isLoopback(address)) };
}

/** A family without a CIDR takes all its addresses, as in kube-proxy. */
function within(cidrs: readonly Cidr[], addresses: readonly Address[]): Address[] {
  return FAMILIES.flatMap((family) => {
    const ranges = cidrs.filter((cidr) => familyOf(cidr) === family);
    return addresses.filter(
      (address) =>
        familyOf(address) === family &&
        (ranges.length === 0 || ranges.some((range) => cidrContains(range, address))),
    );
  });
}
