/**
 * What kube-proxy 1.36 leaves on a node, in its iptables mode, as text for `iptables-restore --noflush`: the chains, their
 * names and the order of their rules are its own (pkg/proxy/iptables/proxier.go); compared with what the program writes.
 */
import { createHash } from 'node:crypto';
import type { Family } from '../../src/model/records.ts';

export interface KubeProxyBackend {
  readonly address: string;
  readonly port: number;
  readonly local: boolean;
}

/** One port of a service in one family. */
export interface KubeProxyPort {
  /** "default/web:tcp" */
  readonly name: string;
  readonly protocol: 'tcp' | 'udp';
  readonly clusterIP: string;
  readonly port: number;
  /** 0: none. */
  readonly nodePort: number;
  readonly policy: 'Cluster' | 'Local';
  /** 0: none. */
  readonly affinitySeconds: number;
  readonly backends: readonly KubeProxyBackend[];
}

const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const CHAIN_HASH = 16;

/** The first letters of the hash in base 32 (RFC 4648), as the names of its chains have them. */
export function hash(text: string, letters = CHAIN_HASH): string {
  const bytes = createHash('sha256').update(text).digest();
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  return Array.from(
    { length: letters },
    (_, n) => BASE32[Number.parseInt(bits.slice(n * 5, n * 5 + 5), 2)],
  ).join('');
}

export const host = (address: string, port: number) =>
  address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
const single = (address: string) => `${address}/${address.includes(':') ? 128 : 32}`;
export const said = (text: string) => `-m comment --comment "${text}"`;
const MASK = { 4: '255.255.255.255', 6: 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff' } as const;

/** Chains of the nat table, each with its rules. */
class NatTable {
  readonly #chains = new Map<string, string[]>();

  chain(name: string): string {
    if (!this.#chains.has(name)) this.#chains.set(name, []);
    return name;
  }

  add(chain: string, rule: string): void {
    this.#chains.get(this.chain(chain))!.push(`-A ${chain} ${rule}`);
  }

  lines(): string[] {
    return [
      ...[...this.#chains.keys()].map((name) => `:${name} - [0:0]`),
      ...[...this.#chains.values()].flat(),
    ];
  }
}

/** A chain that picks one of the backends: KUBE-SVC, or KUBE-SVL of the local ones. */
function addPicks(nat: NatTable, chain: string, port: KubeProxyPort, backends: readonly KubeProxyBackend[]) {
  const sep = ({ address, port: to }: KubeProxyBackend) =>
    `KUBE-SEP-${hash(`${port.name}${port.protocol}${host(address, to)}`)}`;
  const label = (backend: KubeProxyBackend) => said(`${port.name} -> ${host(backend.address, backend.port)}`);
  const family = port.clusterIP.includes(':') ? 6 : 4;
  if (port.affinitySeconds > 0)
    for (const backend of backends)
      nat.add(
        chain,
        `${label(backend)} -m recent --rcheck --seconds ${port.affinitySeconds} --reap --name ${sep(backend)} --mask ${MASK[family]} --rsource -j ${sep(backend)}`,
      );
  backends.forEach((backend, at) => {
    const left = backends.length - at;
    const share = left > 1 ? ` -m statistic --mode random --probability ${(1 / left).toFixed(11)}` : '';
    nat.add(chain, `${label(backend)}${share} -j ${sep(backend)}`);
  });
}

function addBackends(nat: NatTable, port: KubeProxyPort): void {
  const family = port.clusterIP.includes(':') ? 6 : 4;
  for (const { address, port: to } of port.backends) {
    const chain = `KUBE-SEP-${hash(`${port.name}${port.protocol}${host(address, to)}`)}`;
    const remembered =
      port.affinitySeconds > 0 ? ` -m recent --set --name ${chain} --mask ${MASK[family]} --rsource` : '';
    nat.add(chain, `-s ${single(address)} ${said(port.name)} -j KUBE-MARK-MASQ`);
    nat.add(
      chain,
      `-p ${port.protocol} ${said(port.name)}${remembered} -m ${port.protocol} -j DNAT --to-destination ${host(address, to)}`,
    );
  }
}

function addPort(nat: NatTable, port: KubeProxyPort, clusterCIDR: string): void {
  const { name, protocol, clusterIP, nodePort, policy } = port;
  const key = hash(`${name}${protocol}`);
  const [svc, svl, ext] = [`KUBE-SVC-${key}`, `KUBE-SVL-${key}`, `KUBE-EXT-${key}`];
  const to = `-d ${single(clusterIP)} -p ${protocol} ${said(`${name} cluster IP`)} -m ${protocol} --dport ${port.port}`;
  nat.add('KUBE-SERVICES', `${to} -j ${svc}`);
  nat.add(svc, `! -s ${clusterCIDR} ${to} -j KUBE-MARK-MASQ`);
  addPicks(nat, svc, port, port.backends);
  addBackends(nat, port);
  if (nodePort === 0) return;
  nat.add('KUBE-NODEPORTS', `-p ${protocol} ${said(name)} -m ${protocol} --dport ${nodePort} -j ${ext}`);
  if (policy === 'Cluster') {
    nat.add(ext, `${said(`masquerade traffic for ${name} external destinations`)} -j KUBE-MARK-MASQ`);
    nat.add(ext, `-j ${svc}`);
    return;
  }
  const local = '-m addrtype --src-type LOCAL';
  nat.add(ext, `-s ${clusterCIDR} ${said(`pod traffic for ${name} external destinations`)} -j ${svc}`);
  nat.add(
    ext,
    `${said(`masquerade LOCAL traffic for ${name} external destinations`)} ${local} -j KUBE-MARK-MASQ`,
  );
  nat.add(ext, `${said(`route LOCAL traffic for ${name} external destinations`)} ${local} -j ${svc}`);
  nat.add(ext, `-j ${svl}`);
  addPicks(
    nat,
    svl,
    port,
    port.backends.filter((backend) => backend.local),
  );
}

/** Jumps of the filter table, in the order in which the program puts each in front of the others. */
const NEW = '-m conntrack --ctstate NEW';
const FILTER_JUMPS = [
  `-A INPUT ${NEW} ${said('kubernetes load balancer firewall')} -j KUBE-PROXY-FIREWALL`,
  `-A INPUT ${said('kubernetes health check service ports')} -j KUBE-NODEPORTS`,
  `-A INPUT ${NEW} ${said('kubernetes externally-visible service portals')} -j KUBE-EXTERNAL-SERVICES`,
  `-A FORWARD ${NEW} ${said('kubernetes load balancer firewall')} -j KUBE-PROXY-FIREWALL`,
  `-A FORWARD ${said('kubernetes forwarding rules')} -j KUBE-FORWARD`,
  `-A FORWARD ${NEW} ${said('kubernetes service portals')} -j KUBE-SERVICES`,
  `-A FORWARD ${NEW} ${said('kubernetes externally-visible service portals')} -j KUBE-EXTERNAL-SERVICES`,
  `-A OUTPUT ${NEW} ${said('kubernetes load balancer firewall')} -j KUBE-PROXY-FIREWALL`,
  `-A OUTPUT ${NEW} ${said('kubernetes service portals')} -j KUBE-SERVICES`,
];
const FILTER_CHAINS = [
  'KUBE-EXTERNAL-SERVICES',
  'KUBE-FORWARD',
  'KUBE-NODEPORTS',
  'KUBE-PROXY-CANARY',
  'KUBE-PROXY-FIREWALL',
  'KUBE-SERVICES',
];
const FORWARD = [
  // It names an nfacct counter here where the kernel has those.
  '-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP',
  `-A KUBE-FORWARD ${said('kubernetes forwarding rules')} -m mark --mark 0x4000/0x4000 -j ACCEPT`,
  `-A KUBE-FORWARD ${said('kubernetes forwarding conntrack rule')} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
];

/** Without KUBE-FIREWALL, which kubelets make as well, and which therefore stays (BESIDE). */
export function iptablesRules(family: Family, ports: readonly KubeProxyPort[], clusterCIDR: string): string {
  const nat = new NatTable();
  for (const chain of ['KUBE-SERVICES', 'KUBE-NODEPORTS', 'KUBE-POSTROUTING', 'KUBE-PROXY-CANARY'])
    nat.chain(chain);
  nat.add('KUBE-MARK-MASQ', '-j MARK --set-xmark 0x4000/0x4000');
  nat.add('KUBE-POSTROUTING', '-m mark ! --mark 0x4000/0x4000 -j RETURN');
  nat.add('KUBE-POSTROUTING', '-j MARK --set-xmark 0x4000/0x0');
  nat.add(
    'KUBE-POSTROUTING',
    `${said('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully`,
  );
  for (const port of ports) addPort(nat, port, clusterCIDR);
  const last = 'kubernetes service nodeports; NOTE: this must be the last rule in this chain';
  nat.add(
    'KUBE-SERVICES',
    `${family === 6 ? '! -d ::1/128 ' : ''}${said(last)} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS`,
  );
  return [
    ...['*mangle', ':KUBE-PROXY-CANARY - [0:0]', 'COMMIT'],
    ...['*filter', ...FILTER_CHAINS.map((chain) => `:${chain} - [0:0]`), ...FILTER_JUMPS, ...FORWARD],
    ...['COMMIT', '*nat', ...nat.lines()],
    `-A PREROUTING ${said('kubernetes service portals')} -j KUBE-SERVICES`,
    `-A OUTPUT ${said('kubernetes service portals')} -j KUBE-SERVICES`,
    `-A POSTROUTING ${said('kubernetes postrouting rules')} -j KUBE-POSTROUTING`,
    'COMMIT',
    '',
  ].join('\n');
}
