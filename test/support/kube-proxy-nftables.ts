/**
 * What kube-proxy 1.36 leaves on a node in its nftables mode (pkg/proxy/nftables/proxier.go), as text for `nft -f`: the
 * table of one family with all chains, sets and maps that the program makes; compared with what it writes.
 */
import type { Family } from '../../src/model/records.ts';
import { hash, host, type KubeProxyBackend, type KubeProxyPort } from './kube-proxy-rules.ts';

const NAME_HASH = 8;
const NEW = 'ct state new jump';
const MARK = 'meta mark set mark or 0x4000';

interface Words {
  readonly ip: 'ip' | 'ip6';
  readonly type: 'ipv4_addr' | 'ipv6_addr';
}
const WORDS: Readonly<Record<Family, Words>> = {
  4: { ip: 'ip', type: 'ipv4_addr' },
  6: { ip: 'ip6', type: 'ipv6_addr' },
};

/** "default/web:tcp" of udp is "default/web/udp/tcp"; its hash goes before it. */
function base({ name, protocol }: KubeProxyPort, more = ''): string {
  const [service, port] = name.split(':');
  const text = `${service}/${protocol}/${port}${more}`;
  return `${hash(text, NAME_HASH)}-${text}`;
}

function endpointBase(port: KubeProxyPort, { address, port: to }: KubeProxyBackend): string {
  return base(port, `__${address.replaceAll(':', '.')}/${to}`);
}

function block(kind: string, name: string, lines: readonly string[]): string {
  return `  ${kind} ${name} {\n${lines.map((line) => `    ${line}\n`).join('')}  }\n`;
}
const chain = (name: string, ...rules: string[]) => block('chain', name, rules);

/** Sets and maps, in the program's order. */
function setBlocks({ type }: Words, ports: readonly KubeProxyPort[], nodeAddress: string): string {
  const unique = (list: readonly string[]) => [...new Set(list)];
  const filled = (elements: readonly string[]) =>
    elements.length === 0 ? [] : [`elements = { ${elements.join(', ')} }`];
  const set = (name: string, keys: string, comment: string, elements: readonly string[]) =>
    block('set', name, [`type ${keys}`, `comment "${comment}"`, ...filled(elements)]);
  const map = (name: string, keys: string, comment: string, elements: readonly string[] = []) =>
    block('map', name, [`type ${keys} : verdict`, `comment "${comment}"`, ...filled(elements)]);
  const frontend = `${type} . inet_proto . inet_service`;
  const hairpins = ports.flatMap(({ protocol, backends }) =>
    backends
      .filter(({ local }) => local)
      .map(({ address, port }) => `${address} . ${address} . ${protocol} . ${port}`),
  );
  return [
    set('hairpin-connections', `${type} . ${frontend}`, 'service hairpin connections', unique(hairpins)),
    set('cluster-ips', type, 'Active ClusterIPs', unique(ports.map(({ clusterIP }) => clusterIP))),
    set('nodeport-ips', type, 'IPs that accept NodePort traffic', [nodeAddress]),
    map('no-endpoint-services', frontend, 'vmap to drop or reject packets to services with no endpoints'),
    map(
      'no-endpoint-nodeports',
      'inet_proto . inet_service',
      'vmap to drop or reject packets to service nodeports with no endpoints',
    ),
    map('firewall-ips', frontend, 'destinations that are subject to LoadBalancerSourceRanges'),
    map(
      'service-ips',
      frontend,
      'ClusterIP, ExternalIP and LoadBalancer IP traffic',
      ports.map((one) => `${one.clusterIP} . ${one.protocol} . ${one.port} : goto service-${base(one)}`),
    ),
    map(
      'service-nodeports',
      'inet_proto . inet_service',
      'NodePort traffic',
      ports
        .filter(({ nodePort }) => nodePort > 0)
        .map((one) => `${one.protocol} . ${one.nodePort} : goto external-${base(one)}`),
    ),
  ].join('');
}

/** Base chains, and those that all of them share. */
function sharedChains(ip: string, clusterCIDR: string): string {
  const hook = (type: string, at: string, priority: string | number) =>
    `type ${type} hook ${at} priority ${priority}; policy accept;`;
  const to = `${ip} daddr . meta l4proto . th dport vmap`;
  const toNodePort = `${ip} daddr @nodeport-ips meta l4proto . th dport vmap`;
  const forwarded = [`${NEW} service-endpoints-check`, `${NEW} cluster-ips-check`];
  return [
    chain('filter-prerouting-pre-dnat', hook('filter', 'prerouting', -110), `${NEW} firewall-check`),
    chain('filter-output-pre-dnat', hook('filter', 'output', -110), `${NEW} firewall-check`),
    chain(
      'filter-input',
      hook('filter', 'input', 0),
      `${NEW} nodeport-endpoints-check`,
      `${NEW} service-endpoints-check`,
    ),
    chain('filter-forward', hook('filter', 'forward', 0), ...forwarded),
    chain('filter-output', hook('filter', 'output', 0), ...forwarded),
    chain('nat-prerouting', hook('nat', 'prerouting', -100), 'jump services'),
    chain('nat-output', hook('nat', 'output', -100), 'jump services'),
    chain('nat-postrouting', hook('nat', 'postrouting', 100), 'jump masquerading'),
    chain('nodeport-endpoints-check', `${toNodePort} @no-endpoint-nodeports`),
    chain('service-endpoints-check', `${to} @no-endpoint-services`),
    chain('firewall-check', `${to} @firewall-ips`),
    chain(
      'services',
      `${ip} daddr @cluster-ips ${ip} saddr != ${clusterCIDR} ${MARK} comment "masquerade clusterIP traffic from outside cluster"`,
      `${to} @service-ips`,
      `${toNodePort} @service-nodeports`,
    ),
    chain(
      'masquerading',
      'mark and 0x4000 != 0 meta mark set mark xor 0x4000 masquerade fully-random',
      `ct status dnat ${ip} saddr . ${ip} daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random`,
    ),
    chain(
      'cluster-ips-check',
      `${ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"`,
    ),
    chain('reject-chain', 'comment "helper for @no-endpoint-services / @no-endpoint-nodeports"', 'reject'),
  ].join('');
}

/** With affinity by chains of the endpoints, and otherwise by an address out of a map. */
function pickRules(ip: string, port: KubeProxyPort, backends: readonly KubeProxyBackend[]): string[] {
  const any = (of: (backend: KubeProxyBackend) => string) =>
    `numgen random mod ${backends.length} ${port.affinitySeconds > 0 ? 'vmap' : 'map'} { ${backends.map((one, at) => `${at} : ${of(one)}`).join(', ')} }`;
  if (port.affinitySeconds === 0) {
    const to = any(({ address, port: at }) => `${address} . ${at}`);
    return [`meta l4proto ${port.protocol} dnat ${ip} to ${to}`];
  }
  const names = new Map(backends.map((one) => [one, endpointBase(port, one)]));
  return [
    ...[...names.values()].map((name) => `${ip} saddr @affinity-${name} goto endpoint-${name}`),
    any((one) => `goto endpoint-${names.get(one)}`),
  ];
}

function portBlocks({ ip, type }: Words, port: KubeProxyPort, clusterCIDR: string): string {
  const { protocol, nodePort, policy, affinitySeconds, backends } = port;
  const name = base(port);
  const blocks: string[] = [];
  if (affinitySeconds > 0)
    for (const backend of backends) {
      const own = endpointBase(port, backend);
      const kept = [`type ${type}`, 'size 65535', 'flags dynamic,timeout', `timeout ${affinitySeconds}s`];
      blocks.push(
        block('set', `affinity-${own}`, kept),
        chain(
          `endpoint-${own}`,
          `update @affinity-${own} { ${ip} saddr }`,
          `meta l4proto ${protocol} dnat to ${host(backend.address, backend.port)}`,
        ),
      );
    }
  blocks.push(chain(`service-${name}`, ...pickRules(ip, port, backends)));
  if (nodePort > 0 && policy === 'Cluster')
    blocks.push(chain(`external-${name}`, `${MARK} comment "masquerade"`, `goto service-${name}`));
  if (nodePort > 0 && policy === 'Local') {
    const local = backends.filter((backend) => backend.local);
    blocks.push(
      chain(`local-${name}`, ...pickRules(ip, port, local)),
      chain(
        `external-${name}`,
        `${ip} saddr ${clusterCIDR} goto service-${name} comment "short-circuit pod traffic"`,
        `fib saddr type local ${MARK} comment "masquerade local traffic"`,
        `fib saddr type local goto service-${name} comment "short-circuit local traffic"`,
        `goto local-${name}`,
      ),
    );
  }
  return blocks.join('');
}

export function nftablesRules(
  family: Family,
  ports: readonly KubeProxyPort[],
  { clusterCIDR, nodeAddress }: { clusterCIDR: string; nodeAddress: string },
): string {
  const words = WORDS[family];
  const place = ({ address, port }: KubeProxyBackend) => host(address, port);
  // In the order of their text, as the program has them.
  const sorted = ports.map((port) => ({
    ...port,
    backends: [...port.backends].sort((a, b) => (place(a) < place(b) ? -1 : 1)),
  }));
  return `table ${words.ip} kube-proxy {
  comment "rules for kube-proxy"
${setBlocks(words, sorted, nodeAddress)}${sharedChains(words.ip, clusterCIDR)}${sorted.map((port) => portBlocks(words, port, clusterCIDR)).join('')}}
`;
}
