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
import { DRAW, TRANSLATE, TRANSLATE_AGAIN } from './static-rules.ts';

/** Linux takes more, but nothing else is of use, and a quote or a space would end up in a parser. */
const INTERFACE_NAME = /^[A-Za-z0-9_.:@-]{1,15}$/;

interface Words {
  readonly ip: string;
  readonly type: string;
  readonly nobody: string;
  readonly portUnreachable: string;
}

export const WORDS: Record<Family, Words> = {
  4: {
    ip: 'ip',
    type: 'ipv4_addr',
    nobody: '0.0.0.0',
    portUnreachable: 'icmp port-unreachable',
  },
  6: {
    ip: 'ip6',
    type: 'ipv6_addr',
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
 * Writes the destination port, then goes on with the statements of `then`. IPv4 UDP may come without a checksum
 * (RFC 768): then there is none to update, and an updated zero would be a wrong checksum. Written as raw bytes,
 * the port leaves the checksum alone. An update never makes a zero (nft_csum_replace), so one datagram never
 * meets both rules; the common case comes first.
 */
export function setPort(
  family: Family,
  value: (protocol: string) => string,
  then: (protocol: string) => string = () => '',
): string {
  const summed = each(
    (p) => `${p === 'udp' && family === 4 ? 'udp checksum != 0 ' : ''}${p} dport set ${value(p)}${then(p)}`,
  );
  return family === 4 ? `${summed}    udp checksum 0 @th,16,16 set ${value('udp')}${then('udp')}\n` : summed;
}

/**
 * The sets that the rules about sources, answers and masquerade ask, in whichever mode translates. `type` is that of
 * an address.
 */
export function ruleSets(type: string): string {
  const frontend = `${type} . inet_proto . inet_service`;
  return `  set by-source { type ${frontend}; comment "frontends of outside-frontends and guarded"; }
  set unanswered { type ${frontend}; comment "frontends without endpoints, and those of dropped"; }
  set dropped { type ${frontend}; comment "frontends without local endpoints, by policy"; }
  set masquerade-always { type ${frontend}; comment "original destinations"; }
  set masquerade-node { type ${frontend}; comment "original destinations, for this node's own connections"; }
  set masquerade-addresses { type ${type}; comment "the addresses in masquerade-always and masquerade-node"; }
  set cluster-ips { type ${type}; }
  set hairpin { type ${type} . ${type}; comment "backends that reach themselves"; }
  set guarded { type ${frontend}; comment "frontends with loadBalancerSourceRanges"; }
  set pods { type ${type}; flags interval; }
  set service-cidrs { type ${type}; flags interval; }
`;
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
${ruleSets(type)}`;
}

/**
 * The whole way of a connection's first packet stands in the NAT chains: the kernel asks those once for each
 * connection, so that the packets of an open one meet no rule of ours. The commonest answer comes first, and a
 * set that few frontends are in stands behind one look-up that says whether it is worth asking.
 *
 * A commit may come between any two look-ups, and a packet that began before it sees chains that it made as
 * empty: that is why picks are jumped to, and what falls out of one still goes on to be translated.
 * Chains without rules here have theirs in static-rules.ts.
 */
function dispatchChains(family: Family, detector: LocalDetector): string {
  const { ip, nobody } = WORDS[family];
  const key = `${ip} daddr . meta l4proto . th dport`;
  const pod = podMatch(family, detector);
  // A flow from before the first NAT rule of this namespace is asked for although it is confirmed, and cannot be
  // translated any more. A related one goes where its parent's helper says.
  const others = 'ct state != new accept\n    ct status & confirmed != 0 accept';
  return `  chain nat-prerouting {
    type nat hook prerouting priority -105; policy accept;
    ${others}
    ${key} @by-source jump ask-source
    ${ip} daddr set ${key} map @services goto ${DRAW}
    ${key} @unanswered goto refuse
    ${ip} daddr @cluster-ips fib daddr type != local goto reject-it
    ${ip} daddr @service-cidrs drop comment "no service has this address"
  }
  chain nat-output {
    type nat hook output priority -105; policy accept;
    ${others}
    ${key} @guarded jump guard-check
    ${ip} daddr set ${key} map @services goto ${DRAW}
    ${key} @unanswered goto refuse
    ${ip} daddr @cluster-ips goto reject-it
    ${ip} daddr @service-cidrs drop comment "no service has this address"
  }
  chain ask-source {
    ${key} @guarded jump guard-check
    ${key} @outside-frontends jump from-outside
  }
  chain guard-check {
    drop
  }
  chain from-outside {
${pod ? `    ${pod} return\n` : ''}    fib saddr type local return
    ${ip} daddr set ${key} map @outside goto draw-outside
  }
  chain draw-outside {
    ${ip} daddr ${nobody} drop
    goto ${DRAW}
  }
  chain ${DRAW} {
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

function translateChains(family: Family): string {
  const { ip } = WORDS[family];
  const translate = each((p) => `dnat ${ip} addr . port to ${ip} daddr . ${p} dport map @members`);
  return `  chain ${TRANSLATE} {
  }
  chain ${TRANSLATE_AGAIN} {
${setPort(family, () => '0')}    jump member-of-slot
${translate}    drop comment "met a frontend but got no backend: try again"
  }
`;
}

export const MASQUERADE = 'masquerade-now';
/** Any port but the reserved ones and those that the ebpf mode gives to its connections (ebpf/ebpf-dataplane.ts). */
const MASQUERADE_PORTS = '1024-60999';

/**
 * While one mode drains and the other takes what is new, no two connections may have the same answers. nft wants to
 * know the protocol where a rule names ports.
 */
export function masqueradeRules(): string {
  return `  chain ${MASQUERADE} {
${each((p) => `meta l4proto ${p} masquerade to :${MASQUERADE_PORTS} fully-random`)}  }
`;
}

function masqueradeChains(family: Family, detector: LocalDetector): string {
  const { ip } = WORDS[family];
  const original = `ct original ${ip} daddr . meta l4proto . ct original proto-dst`;
  const pod = podMatch(family, detector);
  return `  chain nat-postrouting {
    type nat hook postrouting priority 100; policy accept;
    ct status dnat goto choose-source
  }
  chain choose-source {
    ${ip} saddr . ${ip} daddr @hairpin goto ${MASQUERADE}
    ct original ${ip} daddr @masquerade-addresses goto by-frontend
    ct original ${ip} daddr @cluster-ips goto masquerade-strangers
  }
  chain by-frontend {
${each((p) => `meta l4proto ${p} ${original} @masquerade-always goto ${MASQUERADE}`)}${each((p) => `meta l4proto ${p} ${original} @masquerade-node goto masquerade-node`)}    ct original ${ip} daddr @cluster-ips goto masquerade-strangers
  }
${masqueradeRules()}  chain masquerade-strangers {
${pod ? `    ${pod} return\n    goto ${MASQUERADE}\n` : ''}  }
  chain masquerade-node {
${pod ? `    ${pod} return comment "also where a CIDR of pods holds this node"\n` : ''}    fib saddr type local goto ${MASQUERADE}
  }
`;
}

function refuseChains(family: Family): string {
  const { ip, portUnreachable } = WORDS[family];
  return `  chain refuse {
    ${ip} daddr . meta l4proto . th dport @dropped drop
    goto reject-it
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
${declarations(family)}${refuseChains(family)}${affinityChains(family)}${translateChains(family)}${masqueradeChains(family, detector)}${dispatchChains(family, detector)}}
`;
}
