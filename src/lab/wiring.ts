/**
 * From a plan to the lines that build it: `ip -batch` lines for each namespace, and the settings that
 * triplane-pod setup writes. Pure.
 *
 * Pods are routed as by Calico and the AWS VPC CNI: a /32 and /128 on the pod's end of a veth, a link-local
 * gateway (169.254.1.1, fe80::1) with a fixed neighbour entry, and a host route on the node.
 */
import type { Family } from '../model/records.ts';
import {
  bridgeAddress,
  CLUSTER_CIDRS,
  type LabPlan,
  type NodePlan,
  type PerFamily,
  type PodPlan,
} from './plan.ts';

/** The node's end of every pod's veth, as Calico does it. */
const GATEWAY_MAC = 'ee:ee:ee:ee:ee:ee';
const GATEWAYS: Readonly<Record<Family, string>> = { 4: '169.254.1.1', 6: 'fe80::1' };
const POD_BRIDGE = 'cni0';
const HOST_BITS: Readonly<Record<Family, number>> = { 4: 32, 6: 128 };
const LAN_BITS: Readonly<Record<Family, number>> = { 4: 24, 6: 64 };

export interface Batch {
  readonly namespace: string;
  readonly lines: readonly string[];
}

function nodad(family: Family): string {
  return family === 6 ? ' nodad' : '';
}

function addresses(
  families: readonly Family[],
  of: PerFamily,
  bits: Readonly<Record<Family, number>>,
  device: string,
): string[] {
  return families.map((family) => `addr add ${of[family]}/${bits[family]} dev ${device}${nodad(family)}`);
}

/** Every namespace of the plan. */
export function namespaces(plan: LabPlan): string[] {
  const pods = plan.pods.filter((pod) => pod.network === 'pod').map((pod) => pod.namespace);
  return [plan.fabric.namespace, plan.client.namespace, ...plan.nodes.map((node) => node.namespace), ...pods];
}

/**
 * Settings of a namespace before any device is in it: devices copy `default` when they are made. Duplicate
 * address detection would hold IPv6 back for a second; ICMP limits would turn refusals into time-outs.
 */
function settings(plan: LabPlan, namespace: string, role: 'router' | 'host'): string[] {
  const lines = [`netns /run/netns/${namespace}`];
  for (const scope of ['all', 'default']) {
    lines.push(`sysctl net/ipv4/conf/${scope}/rp_filter 0`);
    lines.push(`sysctl net/ipv4/conf/${scope}/send_redirects 0`);
    lines.push(`sysctl net/ipv4/conf/${scope}/accept_redirects 0`);
    lines.push(`sysctl? net/ipv6/conf/${scope}/accept_dad 0`);
    lines.push(`sysctl? net/ipv6/conf/${scope}/accept_ra 0`);
    lines.push(`sysctl? net/ipv6/conf/${scope}/accept_redirects 0`);
    if (!plan.families.includes(6)) lines.push(`sysctl? net/ipv6/conf/${scope}/disable_ipv6 1`);
  }
  if (role === 'router') lines.push('sysctl net/ipv4/ip_forward 1', 'sysctl? net/ipv6/conf/all/forwarding 1');
  lines.push('sysctl net/ipv4/icmp_ratelimit 0', 'sysctl? net/ipv6/icmp/ratelimit 0');
  lines.push('sysctl? net/ipv4/icmp_msgs_per_sec 1000000', 'sysctl? net/ipv4/icmp_msgs_burst 100000');
  if (plan.localPortRange) lines.push(`sysctl net/ipv4/ip_local_port_range ${plan.localPortRange.join(' ')}`);
  return lines;
}

export function settingLines(plan: LabPlan): string[] {
  const routers = [plan.fabric.namespace, ...plan.nodes.map((node) => node.namespace)];
  return [...new Set(namespaces(plan))].flatMap((ns) =>
    settings(plan, ns, routers.includes(ns) ? 'router' : 'host'),
  );
}

export function podSettingLines(plan: LabPlan, pod: PodPlan): string[] {
  return settings(plan, pod.namespace, 'host');
}

/** After the devices are there: nothing by default. */
export function checksumLines(plan: LabPlan, pods: readonly PodPlan[]): string[] {
  if (plan.txChecksum === 'on') return [];
  const off = (namespace: string, devices: readonly string[]) => [
    `netns /run/netns/${namespace}`,
    ...devices.map((device) => `txcsum ${device} off`),
  ];
  const routed = pods.filter((pod) => pod.network === 'pod');
  return [
    ...off(plan.fabric.namespace, ['client', ...plan.nodes.map(portOf)]),
    ...off(plan.client.namespace, ['eth0']),
    ...plan.nodes.flatMap((n) =>
      off(n.namespace, ['eth0', ...routed.filter((p) => p.node === n.name).map((p) => p.device)]),
    ),
    ...routed.flatMap((pod) => off(pod.namespace, ['eth0'])),
  ];
}

/** The fabric's end of a node's uplink. */
export function portOf(node: NodePlan): string {
  return `node${node.index}`;
}

/** A switch that the nodes hang on, and the router behind which the outside client lives. */
export function fabricBatch(plan: LabPlan): Batch {
  const lines = ['link set lo up', 'link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0'];
  for (const node of plan.nodes) {
    lines.push(`link add ${portOf(node)} type veth peer name eth0 netns ${node.namespace}`);
    lines.push(`link set ${portOf(node)} master br0 up`);
  }
  lines.push(...addresses(plan.families, plan.fabric.addresses, LAN_BITS, 'br0'), 'link set br0 up');
  lines.push(`link add client type veth peer name eth0 netns ${plan.client.namespace}`);
  lines.push(...addresses(plan.families, plan.client.gateways, LAN_BITS, 'client'), 'link set client up');
  for (const node of plan.nodes) {
    for (const family of plan.families)
      lines.push(`route add ${node.podCidrs[family]} via ${node.addresses[family]}`);
  }
  return { namespace: plan.fabric.namespace, lines };
}

export function clientBatch(plan: LabPlan): Batch {
  const lines = [
    'link set lo up',
    ...addresses(plan.families, plan.client.addresses, LAN_BITS, 'eth0'),
    'link set eth0 up',
  ];
  for (const family of plan.families) lines.push(`route add default via ${plan.client.gateways[family]}`);
  return { namespace: plan.client.namespace, lines };
}

function podBridge(plan: LabPlan, node: NodePlan): string[] {
  const lines = [`link add ${POD_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`];
  for (const family of plan.families) {
    lines.push(
      `addr add ${bridgeAddress(family, node.index)}/${LAN_BITS[family]} dev ${POD_BRIDGE}${nodad(family)}`,
    );
  }
  return [...lines, `link set ${POD_BRIDGE} up`];
}

export function nodeBatch(plan: LabPlan, node: NodePlan): Batch {
  const lines = [
    'link set lo up',
    ...addresses(plan.families, node.addresses, LAN_BITS, 'eth0'),
    'link set eth0 up',
  ];
  for (const family of plan.families) {
    lines.push(`route add default via ${plan.fabric.addresses[family]}`);
    // A packet to a pod that is gone would go back and forth between node and fabric otherwise.
    if (plan.podNetwork === 'routed') lines.push(`route add blackhole ${node.podCidrs[family]}`);
    for (const other of plan.nodes) {
      if (other !== node) lines.push(`route add ${other.podCidrs[family]} via ${other.addresses[family]}`);
    }
  }
  if (plan.podNetwork === 'bridged') lines.push(...podBridge(plan, node));
  for (const pod of plan.pods) if (pod.node === node.name) lines.push(...podUplinkLines(plan, node, pod));
  return { namespace: node.namespace, lines };
}

/** What a pod needs on its node. */
export function podUplinkLines(plan: LabPlan, node: NodePlan, pod: PodPlan): string[] {
  if (pod.network === 'host') return [];
  const peer = `peer name eth0 address ${pod.mac} netns ${pod.namespace}`;
  if (plan.podNetwork === 'bridged') {
    return [
      `link add ${pod.device} type veth ${peer}`,
      `link set ${pod.device} master ${POD_BRIDGE}`,
      `link set ${pod.device} type bridge_slave hairpin on`,
      `link set ${pod.device} up`,
    ];
  }
  const lines = [
    `link add ${pod.device} address ${GATEWAY_MAC} type veth ${peer}`,
    `link set ${pod.device} up`,
  ];
  for (const family of plan.families) {
    // IPv4's gateway needs no address: the pod never asks for it, its neighbour entry is fixed.
    if (family === 6) lines.push(`addr add ${GATEWAYS[6]}/64 dev ${pod.device} nodad`);
    lines.push(
      `route add ${pod.addresses[family]}/${HOST_BITS[family]} dev ${pod.device} src ${node.addresses[family]}`,
    );
  }
  return lines;
}

export function podBatch(plan: LabPlan, node: NodePlan, pod: PodPlan): Batch {
  const bridged = plan.podNetwork === 'bridged';
  const lines = [
    'link set lo up',
    ...addresses(plan.families, pod.addresses, bridged ? LAN_BITS : HOST_BITS, 'eth0'),
    'link set eth0 up',
  ];
  for (const family of plan.families) {
    if (bridged) {
      lines.push(`route add default via ${bridgeAddress(family, node.index)}`);
      continue;
    }
    if (family === 4) lines.push(`route add ${GATEWAYS[4]} dev eth0 scope link`);
    lines.push(`neigh replace ${GATEWAYS[family]} lladdr ${GATEWAY_MAC} dev eth0 nud permanent`);
    lines.push(`route add default via ${GATEWAYS[family]} dev eth0`);
  }
  return { namespace: pod.namespace, lines };
}

/** `--cluster-cidr` for the agents of this lab. */
export function clusterCidrFlag(plan: LabPlan): string {
  return plan.families.map((family) => CLUSTER_CIDRS[family]).join(',');
}
