/**
 * Which addresses stand for this node, and on which of them NodePorts listen. Pure: the same rules as
 * kube-proxy's detectNodeIPs() (cmd/kube-proxy/app/server.go) and NodePortAddresses
 * (pkg/proxy/util/nodeport_addresses.go).
 */
import { cidrContains, compareAddresses, familyOf, isLoopback } from '../model/address.ts';
import type { Address, Cidr, Family } from '../model/records.ts';
import type { NodeAddress } from './addresses.ts';

export interface NodeIPs {
  /** The family of the cluster's first address. */
  readonly primaryFamily: Family;
  /** Null: not known. */
  readonly byFamily: Readonly<Record<Family, Address | null>>;
}

export interface NodeIPSources {
  /** --bind-address; null or unspecified (0.0.0.0, ::): not given. */
  readonly bindAddress: Address | null;
  /** NodeRecord.addresses: InternalIPs, then ExternalIPs. */
  readonly nodeAddresses: readonly Address[];
  /** Used where neither says anything: AddressBook.defaultAddress() of each family. */
  readonly defaults: Readonly<Record<Family, Address | null>>;
}

/**
 * The bind address is primary if given; then the first address of the Node and its first one of the other
 * family. kube-proxy assumes loopback where nothing is known; here the default route's address stands in.
 */
export function detectNodeIPs(sources: NodeIPSources): NodeIPs {
  const { nodeAddresses, defaults } = sources;
  const bind = sources.bindAddress === '0.0.0.0' || sources.bindAddress === '::' ? null : sources.bindAddress;
  const ofFamily = (family: Family) =>
    nodeAddresses.find((address) => familyOf(address) === family) ??
    (nodeAddresses.length === 0 ? defaults[family] : null);
  const byFamily: Record<Family, Address | null> = { 4: ofFamily(4), 6: ofFamily(6) };
  if (bind) {
    byFamily[familyOf(bind)] = bind;
    return { primaryFamily: familyOf(bind), byFamily };
  }
  const first = nodeAddresses[0] ?? byFamily[4] ?? byFamily[6];
  return { primaryFamily: first ? familyOf(first) : 4, byFamily };
}

/** --nodeport-addresses: 'primary', or ranges (none: all addresses). */
export type NodePortSetting = 'primary' | readonly Cidr[];

const EVERYWHERE: Readonly<Record<Family, Cidr>> = { 4: '0.0.0.0/0' as Cidr, 6: '::/0' as Cidr };

const LOOPBACK = ['127.0.0.1', '::1'] as Address[];

function primaryCidrs(nodeIPs: NodeIPs): Cidr[] {
  const known = [nodeIPs.byFamily[4], nodeIPs.byFamily[6]].filter(
    (address): address is Address => address !== null && !isLoopback(address),
  );
  return known.map((address) => `${address}/${familyOf(address) === 4 ? 32 : 128}` as Cidr);
}

/**
 * The ranges in force for each family. A family without a range gets all of it, also when the other has one,
 * and with 'primary' when the node has no address of it: as kube-proxy does, which warns of it.
 */
export function nodePortCidrs(setting: NodePortSetting, nodeIPs: NodeIPs): Record<Family, readonly Cidr[]> {
  const given = setting === 'primary' ? primaryCidrs(nodeIPs) : setting;
  const ofFamily = (family: Family) => {
    const cidrs = given.filter((cidr) => familyOf(cidr) === family);
    return cidrs.length > 0 ? cidrs : [EVERYWHERE[family]];
  };
  return { 4: ofFamily(4), 6: ofFamily(6) };
}

/**
 * Where NodePorts listen: the node's own addresses within the ranges, never loopback; link-local ones count.
 * Sorted, without duplicates.
 */
export function nodePortAddresses(
  setting: NodePortSetting,
  nodeIPs: NodeIPs,
  addresses: readonly NodeAddress[],
): Record<Family, readonly Address[]> {
  const cidrs = nodePortCidrs(setting, nodeIPs);
  const ofFamily = (family: Family) => {
    const found = addresses.filter(
      ({ family: its, address }) =>
        its === family && !isLoopback(address) && cidrs[family].some((cidr) => cidrContains(cidr, address)),
    );
    return [...new Set(found.map(({ address }) => address))].sort(compareAddresses);
  };
  return { 4: ofFamily(4), 6: ofFamily(6) };
}

/** Ranges that name loopback addresses on purpose: all of a family does not. */
function loopbackWarnings(setting: NodePortSetting): string[] {
  if (setting === 'primary') return [];
  const named = setting.filter(
    (cidr) => !cidr.endsWith('/0') && LOOPBACK.some((one) => cidrContains(cidr, one)),
  );
  return named.map(
    (cidr) => `--nodeport-addresses names ${cidr}: NodePorts never answer on loopback addresses`,
  );
}

/**
 * What the operator should hear about the setting, one line each: kube-proxy's checkBadConfig(), and what its
 * nftables mode says of loopback addresses.
 *
 * @param dualStack something else in the configuration names ranges of both families
 */
export function nodePortWarnings(
  setting: NodePortSetting,
  nodeIPs: NodeIPs,
  cluster: { readonly dualStack: boolean },
): string[] {
  return [...familyWarnings(setting, nodeIPs, cluster), ...loopbackWarnings(setting)];
}

function familyWarnings(
  setting: NodePortSetting,
  nodeIPs: NodeIPs,
  cluster: { readonly dualStack: boolean },
): string[] {
  const given = setting === 'primary' ? primaryCidrs(nodeIPs) : setting;
  const primary = nodeIPs.primaryFamily;
  const ofPrimary = given.filter((cidr) => familyOf(cidr) === primary).length;
  if (given.length === 0) {
    return ['NodePorts listen on all addresses of this node; --nodeport-addresses primary limits them'];
  }
  if (ofPrimary === 0) {
    return [
      `--nodeport-addresses has no IPv${primary} range: NodePorts listen on all IPv${primary} addresses of this node`,
    ];
  }
  if (cluster.dualStack && ofPrimary === given.length) {
    const other = primary === 4 ? 6 : 4;
    return [
      `--nodeport-addresses has no IPv${other} range: NodePorts listen on all IPv${other} addresses of this node`,
    ];
  }
  return [];
}
