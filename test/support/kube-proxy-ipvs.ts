/**
 * What kube-proxy 1.36 leaves on a node in its ipvs mode (pkg/proxy/ipvs/proxier.go): its device with the services'
 * addresses, a virtual server for each address and port, sets, and the iptables rules that ask them.
 */
import type { Family } from '../../src/model/records.ts';
import { host, type KubeProxyPort, said } from './kube-proxy-rules.ts';

export interface KubeProxyIpvs {
  /** For `ipset restore`. */
  readonly sets: string;
  /** For `iptables-restore --noflush`; after the sets. */
  readonly rules: string;
  /** For `ipvsadm --restore`. */
  readonly servers: string;
  /** Of kube-ipvs0. */
  readonly addresses: readonly string[];
}

const IP_PORT = 'hash:ip,port';
const SETS: readonly (readonly [name: string, type: string, says: string])[] = [
  ['LOOP-BACK', 'hash:ip,port,ip', 'Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose'],
  ['CLUSTER-IP', IP_PORT, 'Kubernetes service cluster ip + port for masquerade purpose'],
  ['EXTERNAL-IP', IP_PORT, ''],
  ['EXTERNAL-IP-LOCAL', IP_PORT, ''],
  ['LOAD-BALANCER', IP_PORT, ''],
  ['LOAD-BALANCER-FW', IP_PORT, ''],
  ['LOAD-BALANCER-LOCAL', IP_PORT, ''],
  ['LOAD-BALANCER-SOURCE-IP', 'hash:ip,port,ip', ''],
  ['LOAD-BALANCER-SOURCE-CIDR', 'hash:ip,port,net', ''],
  ['NODE-PORT-TCP', 'bitmap:port', 'Kubernetes nodeport TCP port for masquerade purpose'],
  ['NODE-PORT-LOCAL-TCP', 'bitmap:port', 'Kubernetes nodeport TCP port with externalTrafficPolicy=local'],
  ['NODE-PORT-UDP', 'bitmap:port', 'Kubernetes nodeport UDP port for masquerade purpose'],
  ['NODE-PORT-LOCAL-UDP', 'bitmap:port', 'Kubernetes nodeport UDP port with externalTrafficPolicy=local'],
  ['NODE-PORT-SCTP-HASH', IP_PORT, ''],
  ['NODE-PORT-LOCAL-SCTP-HASH', IP_PORT, ''],
  ['HEALTH-CHECK-NODE-PORT', 'bitmap:port', 'Kubernetes health check node port'],
  ['IPVS-IPS', 'hash:ip', ''],
];
/** ip_set.h: IPSET_MAXNAMELEN less its end. */
const SET_NAME_MAX = 31;
const setName = (family: Family, name: string) =>
  (family === 4 ? `KUBE-${name}` : `KUBE-6-${name}`).slice(0, SET_NAME_MAX);
const commentOf = (name: string) => said(SETS.find(([one]) => one === name)![2]);

function setLines(family: Family, ports: readonly KubeProxyPort[]): string[] {
  const kind = family === 4 ? 'inet' : 'inet6';
  const lines = SETS.map(([name, type]) => {
    const range = type === 'bitmap:port' ? 'range 0-65535' : `family ${kind} hashsize 1024 maxelem 65536`;
    return `create ${setName(family, name)} ${type} ${range}`;
  });
  const entries = new Set<string>();
  const add = (name: string, entry: string | number) => entries.add(`add ${setName(family, name)} ${entry}`);
  for (const { protocol, clusterIP, port, nodePort, policy, backends } of ports) {
    add('CLUSTER-IP', `${clusterIP},${protocol}:${port}`);
    add('IPVS-IPS', clusterIP);
    if (nodePort > 0) add(`NODE-PORT-${protocol.toUpperCase()}`, nodePort);
    if (nodePort > 0 && policy === 'Local') add(`NODE-PORT-LOCAL-${protocol.toUpperCase()}`, nodePort);
    for (const { address, port: to, local } of backends)
      if (local) add('LOOP-BACK', `${address},${protocol}:${to},${address}`);
  }
  return [...lines, ...entries];
}

const FILTER_JUMPS = [
  `-A FORWARD ${said('kubernetes forwarding rules')} -j KUBE-FORWARD`,
  `-A INPUT ${said('kubernetes health check rules')} -j KUBE-NODE-PORT`,
  `-A INPUT ${said('kube-proxy firewall rules')} -j KUBE-PROXY-FIREWALL`,
  `-A FORWARD ${said('kube-proxy firewall rules')} -j KUBE-PROXY-FIREWALL`,
  `-A INPUT ${said('kubernetes ipvs access filter')} -j KUBE-IPVS-FILTER`,
  `-A OUTPUT ${said('kubernetes ipvs access filter')} -j KUBE-IPVS-OUT-FILTER`,
];

function filterLines(set: (name: string) => string): string[] {
  const filter = '-A KUBE-IPVS-FILTER';
  const known = ['LOAD-BALANCER', 'CLUSTER-IP', 'EXTERNAL-IP', 'EXTERNAL-IP-LOCAL'];
  const chains = ['FORWARD', 'NODE-PORT', 'PROXY-FIREWALL', 'SOURCE-RANGES-FIREWALL'];
  return [
    ...[...chains, 'IPVS-FILTER', 'IPVS-OUT-FILTER'].map((chain) => `:KUBE-${chain} - [0:0]`),
    ...FILTER_JUMPS,
    '-A KUBE-SOURCE-RANGES-FIREWALL -j DROP',
    `-A KUBE-FORWARD ${said('kubernetes forwarding rules')} -m mark --mark 0x4000/0x4000 -j ACCEPT`,
    `-A KUBE-FORWARD ${said('kubernetes forwarding conntrack rule')} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
    `-A KUBE-NODE-PORT ${commentOf('HEALTH-CHECK-NODE-PORT')} ${set('HEALTH-CHECK-NODE-PORT')} dst -j ACCEPT`,
    ...known.map((name) => `${filter} ${set(name)} dst,dst -j RETURN`),
    `${filter} ${set('HEALTH-CHECK-NODE-PORT')} dst -j RETURN`,
    `${filter} -m conntrack --ctstate NEW ${set('IPVS-IPS')} dst -j REJECT`,
  ];
}

function natLines(family: Family, set: (name: string) => string, clusterCIDR: string): string[] {
  const services = '-A KUBE-SERVICES';
  const nodePorts = ['TCP', 'UDP'].flatMap((protocol) => {
    const kind = `-A KUBE-NODE-PORT -p ${protocol.toLowerCase()}`;
    const [local, all] = [`NODE-PORT-LOCAL-${protocol}`, `NODE-PORT-${protocol}`];
    return [
      `${kind} ${commentOf(local)} ${set(local)} dst -j RETURN`,
      `${kind} ${commentOf(all)} ${set(all)} dst -j KUBE-MARK-MASQ`,
    ];
  });
  const chains = ['SERVICES', 'POSTROUTING', 'NODE-PORT', 'LOAD-BALANCER', 'MARK-MASQ'];
  return [
    ...chains.map((chain) => `:KUBE-${chain} - [0:0]`),
    `-A OUTPUT ${said('kubernetes service portals')} -j KUBE-SERVICES`,
    `-A PREROUTING ${said('kubernetes service portals')} -j KUBE-SERVICES`,
    `-A POSTROUTING ${said('kubernetes postrouting rules')} -j KUBE-POSTROUTING`,
    `${services} -s ${family === 4 ? '127.0.0.0/8' : '::1/128'} -j RETURN`,
    `${services} ! -s ${clusterCIDR} ${commentOf('CLUSTER-IP')} ${set('CLUSTER-IP')} dst,dst -j KUBE-MARK-MASQ`,
    `${services} -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT`,
    `${services} ${set('CLUSTER-IP')} dst,dst -j ACCEPT`,
    ...nodePorts,
    '-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ',
    '-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000',
    `-A KUBE-POSTROUTING ${commentOf('LOOP-BACK')} ${set('LOOP-BACK')} dst,dst,src -j MASQUERADE`,
    '-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN',
    '-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0',
    `-A KUBE-POSTROUTING ${said('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully`,
  ];
}

/** A server for the cluster IP with all backends, and one for each node address: with a Local policy of the local ones. */
function serverLines(ports: readonly KubeProxyPort[], nodeAddress: string): string[] {
  const server = (kind: string, name: string, affinity: number, backends: KubeProxyPort['backends']) => [
    `-A ${kind} ${name} -s rr${affinity > 0 ? ` -p ${affinity}` : ''}`,
    ...backends.map(({ address, port }) => `-a ${kind} ${name} -r ${host(address, port)} -m -w 1`),
  ];
  return ports.flatMap(({ protocol, clusterIP, port, nodePort, policy, affinitySeconds, backends }) => {
    const kind = protocol === 'tcp' ? '-t' : '-u';
    const outside = policy === 'Local' ? backends.filter(({ local }) => local) : backends;
    return [
      ...server(kind, host(clusterIP, port), affinitySeconds, backends),
      ...(nodePort > 0 ? server(kind, host(nodeAddress, nodePort), affinitySeconds, outside) : []),
    ];
  });
}

export function ipvsRules(
  family: Family,
  ports: readonly KubeProxyPort[],
  { clusterCIDR, nodeAddress }: { clusterCIDR: string; nodeAddress: string },
): KubeProxyIpvs {
  const set = (name: string) => `-m set --match-set ${setName(family, name)}`;
  return {
    sets: `${setLines(family, ports).join('\n')}\n`,
    rules: [
      ...['*filter', ...filterLines(set), 'COMMIT'],
      ...['*nat', ...natLines(family, set, clusterCIDR), 'COMMIT', ''],
    ].join('\n'),
    servers: `${serverLines(ports, nodeAddress).join('\n')}\n`,
    addresses: [...new Set(ports.map(({ clusterIP }) => clusterIP))],
  };
}
