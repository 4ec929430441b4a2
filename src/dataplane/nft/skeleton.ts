/**
 * The static rules, as text that a person can read. Applied once by libnftables; everything that changes at
 * run time is an element (or one of the few chains of chains.ts) and goes over netlink.
 *
 * Only checked configuration enters the text: interface names are matched against INTERFACE_NAME, addresses
 * never appear (they are elements).
 */

import type { LocalDetector } from '../../model/desired.ts';
import { detectorSpeaks } from '../../model/detector.ts';
import { TriplaneError } from '../../model/errors.ts';
import type { Family } from '../../model/records.ts';
import { NEXT_TABLE } from './layout.ts';

/** Linux takes more, but nothing else is of use, and a quote or a space would end up in a parser. */
const INTERFACE_NAME = /^[A-Za-z0-9_.:@-]{1,15}$/;

interface Words {
  readonly ip: string;
  readonly type: string;
  readonly poolRange: string;
  /** Pool addresses of the table, and of the one that takes its place: see POOL_NUMBERS. */
  readonly ownPools: readonly [string, string];
  readonly nobody: string;
  readonly portUnreachable: string;
}

export const WORDS: Record<Family, Words> = {
  4: {
    ip: 'ip',
    type: 'ipv4_addr',
    poolRange: '0.0.0.0/8',
    ownPools: ['0.0.0.0/9', '0.128.0.0/9'],
    nobody: '0.0.0.0',
    portUnreachable: 'icmp port-unreachable',
  },
  6: {
    ip: 'ip6',
    type: 'ipv6_addr',
    poolRange: '100::/64',
    ownPools: ['100::/105', '100::80:0/105'],
    nobody: '100::',
    portUnreachable: 'icmpv6 port-unreachable',
  },
};

/** The rule fragment that is true for packets of pods; null when pods of this family cannot be told. */
export function podMatch(family: Family, detector: LocalDetector): string | null {
  // With CIDRs of the other family only, an empty set would make everybody a stranger; it is to be nobody.
  if (!detectorSpeaks(detector, family)) return null;
  switch (detector.by) {
    case 'cidr':
      return `${WORDS[family].ip} saddr @pods`;
    case 'bridge':
      return `meta iifname "${interfaceName(detector.name)}"`;
    case 'prefix':
      return `meta iifname "${interfaceName(detector.prefix)}*"`;
    case 'none':
      return null;
  }
}

function interfaceName(name: string): string {
  if (!INTERFACE_NAME.test(name)) {
    throw new TriplaneError(
      'TP_BAD_FLAG',
      `interface name ${JSON.stringify(name)} holds a character that no interface of a node has`,
    );
  }
  return name;
}

const PROTOCOLS = ['tcp', 'udp', 'sctp'] as const;

/** The same rule for each protocol: nft 1.0 wants to know it where a rule writes a port or uses one for NAT. */
export function each(rule: (protocol: string) => string): string {
  return PROTOCOLS.map((protocol) => `    ${rule(protocol)}\n`).join('');
}

/**
 * Writes the destination port. IPv4 UDP may come without a checksum (RFC 768): then there is none to update, and
 * an updated zero would be a wrong checksum. Written as raw bytes, the port leaves the checksum alone.
 */
export function setPort(family: Family, value: (protocol: string) => string): string {
  const summed = each(
    (p) => `${p === 'udp' && family === 4 ? 'udp checksum != 0 ' : ''}${p} dport set ${value(p)}`,
  );
  return family === 4 ? `    udp checksum 0 @th,16,16 set ${value('udp')}\n${summed}` : summed;
}

function declarations(family: Family): string {
  const { type, nobody } = WORDS[family];
  const frontend = `${type} . inet_proto . inet_service`;
  return `  map services { type ${frontend} : ${type}; comment "frontend : pool, for everybody or for sources inside"; }
  map outside { type ${frontend} : ${type}; comment "frontend : pool for sources outside (externalTrafficPolicy Local); ${nobody}: drop"; }
  map pools { type ${type} : inet_service; comment "pool : way of drawing a slot"; }
  map picks { type inet_service : verdict; comment "way of drawing : its chain"; }
  map members { type ${type} . inet_service : ${type} . inet_service; comment "pool . slot (or member id) : backend"; }
  map slots { type ${type} . inet_service : inet_service; comment "pool . slot : member id, of pools with affinity"; }
  map affinity { type ${type} . ${type} : inet_service; size 1048576; flags dynamic,timeout; comment "client . pool : member id"; }
  set member-ids { type ${type} . inet_service; comment "pool . member id, of pools with affinity"; }
  set outside-frontends { type ${frontend}; comment "the keys of outside"; }
  set rejected { type ${frontend}; comment "frontends without endpoints"; }
  set dropped { type ${frontend}; comment "frontends without local endpoints, by policy"; }
  set masquerade-always { type ${frontend}; comment "original destinations"; }
  set masquerade-node { type ${frontend}; comment "original destinations, for this node's own connections"; }
  set cluster-ips { type ${type}; }
  set hairpin { type ${type} . ${type}; comment "backends that reach themselves"; }
  set guarded { type ${frontend}; comment "frontends with loadBalancerSourceRanges"; }
  set pods { type ${type}; flags interval; }
  set service-cidrs { type ${type}; flags interval; }
`;
}

function dispatchChains(family: Family, detector: LocalDetector): string {
  const { ip, poolRange, nobody } = WORDS[family];
  const key = `${ip} daddr . meta l4proto . th dport`;
  const pod = podMatch(family, detector);
  // Only the first packet of a connection passes here: a later one that is still "new" has its translation
  // already, and is rewritten by conntrack's NAT whatever its destination says.
  const first = 'ct state new ct status & confirmed == 0';
  return `  chain dispatch-prerouting {
    type filter hook prerouting priority -105; policy accept;
    ${first} jump first-prerouting
  }
  chain dispatch-output {
    type filter hook output priority -105; policy accept;
    ${first} jump first-output
  }
  chain first-prerouting {
    ct original ${ip} daddr ${poolRange} drop comment "pool addresses are ours alone"
    ${ip} daddr ${poolRange} return comment "another table of ours was here first"
    ${key} @guarded jump guard-check
    ${key} @outside-frontends jump from-outside
    ${ip} daddr set ${key} map @services
    ${ip} daddr ${poolRange} goto draw
    jump check
    ${ip} daddr @cluster-ips fib daddr type != local goto reject-it
    ${ip} daddr @service-cidrs drop comment "no service has this address"
  }
  chain first-output {
    ct original ${ip} daddr ${poolRange} drop comment "pool addresses are ours alone"
    ${ip} daddr ${poolRange} return comment "another table of ours was here first"
    ${key} @guarded jump guard-check
    ${ip} daddr set ${key} map @services
    ${ip} daddr ${poolRange} goto draw
    jump check
    ${ip} daddr @cluster-ips goto reject-it
    ${ip} daddr @service-cidrs drop comment "no service has this address"
  }
  chain guard-check {
    drop
  }
  chain from-outside {
${pod ? `    ${pod} return\n` : ''}    fib saddr type local return
    ${ip} daddr set ${key} map @outside
    ${ip} daddr ${nobody} drop
  }
  chain draw {
${setPort(family, () => `${ip} daddr map @pools`)}    th dport vmap @picks
  }
`;
}

/** Helpers of the chains that draw a member for a client with affinity (chains.ts). */
function affinityChains(family: Family): string {
  const { ip } = WORDS[family];
  return `  chain forget-port {
${setPort(family, () => '65535')}  }
  chain recall {
${setPort(family, () => `${ip} saddr . ${ip} daddr map @affinity`)}  }
  chain forget-gone {
    ${ip} daddr . th dport @member-ids return
${setPort(family, () => '65535')}  }
  chain member-of-slot {
${setPort(family, (p) => `${ip} daddr . ${p} dport map @slots`)}  }
`;
}

function natChains(table: string, family: Family, detector: LocalDetector): string {
  const { ip, poolRange, ownPools: halves } = WORDS[family];
  const ownPools = halves[table === NEXT_TABLE ? 1 : 0];
  const translate = each((p) => `dnat ${ip} addr . port to ${ip} daddr . ${p} dport map @members`);
  const original = `ct original ${ip} daddr . meta l4proto . ct original proto-dst`;
  const pod = podMatch(family, detector);
  return `  chain nat-prerouting {
    type nat hook prerouting priority -100; policy accept;
    ${ip} daddr ${ownPools} goto translate
  }
  chain nat-output {
    type nat hook output priority -100; policy accept;
    ${ip} daddr ${ownPools} goto translate
  }
  chain translate {
${translate}    goto translate-again
  }
  chain translate-again {
${setPort(family, () => '0')}    jump member-of-slot
${translate}  }
  chain nat-postrouting {
    type nat hook postrouting priority 100; policy accept;
    ${ip} daddr ${poolRange} drop comment "met a frontend but got no backend: try again"
    ct status dnat jump choose-source
  }
  chain choose-source {
    ${ip} saddr . ${ip} daddr @hairpin masquerade fully-random
${each((p) => `meta l4proto ${p} ${original} @masquerade-always masquerade fully-random`)}${each((p) => `meta l4proto ${p} ${original} @masquerade-node goto masquerade-node`)}    ct original ${ip} daddr @cluster-ips goto masquerade-strangers
  }
  chain masquerade-strangers {
${pod ? `    ${pod} return\n    masquerade fully-random\n` : ''}  }
  chain masquerade-node {
${pod ? `    ${pod} return comment "also where a CIDR of pods holds this node"\n` : ''}    fib saddr type local masquerade fully-random
  }
`;
}

function checkChains(family: Family): string {
  const { ip, portUnreachable } = WORDS[family];
  return `  chain check {
    ${ip} daddr . meta l4proto . th dport @rejected goto reject-it
    ${ip} daddr . meta l4proto . th dport @dropped drop
  }
  chain reject-it {
    meta l4proto tcp reject with tcp reset
    reject with ${portUnreachable}
  }
`;
}

/** The whole table, dormant: it takes no packet until wake() in the batch that completes it. */
export function skeletonText(table: string, family: Family, detector: LocalDetector): string {
  return `table ${WORDS[family].ip} ${table} {
  flags dormant;
${declarations(family)}${checkChains(family)}${affinityChains(family)}${natChains(table, family, detector)}${dispatchChains(family, detector)}}
`;
}
