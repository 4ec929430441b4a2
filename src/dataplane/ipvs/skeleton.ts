/**
 * The static rules beside IPVS, as text that a person can read. Service addresses are local, so what comes from
 * elsewhere meets them in the input hook, just before IPVS (which stands at 98 and 99 there, and at -99 and -98
 * in output: net/netfilter/ipvs/ip_vs_core.c); what IPVS has translated comes by once more through output.
 */
import type { LocalDetector } from '../../model/desired.ts';
import type { Family } from '../../model/records.ts';
import { each, MASQUERADE, masqueradeRules, podMatch, ruleSets, setPort, WORDS } from '../nft/skeleton.ts';
import { MARKED, PORTED_LABEL } from './marks.ts';

/** Of a base chain before IPVS: packets after the first. */
const LATER = `    ct direction original ct label ${PORTED_LABEL} goto keep-port\n`;

interface Keys {
  readonly ip: string;
  readonly type: string;
  readonly key: string;
  readonly original: string;
  readonly pod: string | null;
  readonly portUnreachable: string;
}

function keysOf(family: Family, detector: LocalDetector): Keys {
  const { ip, type, portUnreachable } = WORDS[family];
  return {
    ip,
    type,
    key: `${ip} daddr . meta l4proto . th dport`,
    original: `ct original ${ip} daddr . meta l4proto . ct original proto-dst`,
    pod: podMatch(family, detector),
    portUnreachable,
  };
}

function declarations({ type }: Keys): string {
  const frontend = `${type} . inet_proto . inet_service`;
  return `  map services { type ${frontend} : mark; comment "frontend : mark of its pool, for everybody or for sources inside"; }
  map outside { type ${frontend} : mark; comment "frontend : mark for sources outside (externalTrafficPolicy Local); 0: drop"; }
  set outside-frontends { type ${frontend}; comment "the keys of outside"; }
  set frontends { type ${frontend}; comment "all of the above"; }
  set pools { type mark; comment "virtual services of ours"; }
  set addresses { type ${type}; comment "service addresses on our device"; }
  map ports { type ${frontend} : inet_service; comment "frontend with affinity : port of its backends, for new connections"; }
  set ported { type ${frontend}; comment "the same frontends"; }
  map marks { typeof ct id : meta mark; size 65536; flags dynamic,timeout; comment "marks of others while ours stands in the packet"; }
${ruleSets(type)}`;
}

/**
 * Before IPVS: who may, which pool, at which port, and what no service has. In output between the kernel's NAT (-100) and IPVS
 * (-98): beside the tables of nft mode, which lead until they have retired, nothing is ours that those have translated. That
 * a port of our device's addresses is nobody's is said where it is delivered: once another mode leads, the node's own
 * connections to these addresses pass `output` on their way to it.
 */
function enterChains({ ip, key, pod, portUnreachable }: Keys): string {
  return `  chain enter-input {
    type filter hook input priority 90; policy accept;
    ct state new jump enter
${each((p) => `ct state new meta l4proto ${p} ${ip} daddr @addresses goto reject-it`)}${LATER}  }
  chain enter-output {
    type filter hook output priority -99; policy accept;
    ct state new jump enter
${LATER}  }
  chain enter-forward {
    type filter hook forward priority 0; policy accept;
    ct state new jump check
    ct state new ${key} @frontends drop comment "its address is about to become ours: try again"
  }
  chain enter {
    meta mark != 0 update @marks { ct id timeout 10s : meta mark }
    ${key} @ported ct label set ${PORTED_LABEL}
    ${key} @by-source jump ask-source
    meta mark set ${key} map @services goto choose-port
    ${MARKED} accept comment "by the table that replaces this one"
    jump check
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
    meta mark set ${key} map @outside goto to-outside
  }
  chain to-outside {
    meta mark 0 drop
    goto choose-port
  }
  chain check {
    ${key} @dropped drop
    ${key} @unanswered goto reject-it
    ${ip} daddr @cluster-ips goto reject-it
    ${ip} daddr @service-cidrs drop comment "no service has this address"
  }
  chain reject-it {
    meta l4proto tcp reject with tcp reset
    reject with ${portUnreachable}
  }
`;
}

/** After IPVS: the mark of others back; what IPVS did not take is not for this node's own sockets. */
function leaveChains({ ip, key }: Keys): string {
  return `  chain leave-output {
    type filter hook output priority -300; policy accept;
    ct state new jump restore-mark comment "has a connection before conntrack has seen it: IPVS sent it"
  }
  chain leave-input {
    type filter hook input priority 110; policy accept;
    ct state new jump leave
  }
  chain leave {
    jump restore-mark
    ${key} @frontends drop
${each((p) => `meta l4proto ${p} ${ip} daddr @addresses drop`)}  }
  chain restore-mark {
    meta mark != @pools return
    meta mark set 0
    meta mark set ct id map @marks
  }
`;
}

/**
 * Persistence of IPVS keeps a marked packet's port: the rules translate it, in every packet, both ways. A label says which
 * connections these are, and their answers to which port: neither a change of the Service nor its end, nor this node's going
 * over to another mode, concerns a connection that is open. Those of another proxy's IPVS have no label.
 */
function portChains(family: Family, { ip }: Keys): string {
  const back = each(
    (p) => `${p === 'udp' && family === 4 ? 'udp checksum != 0 ' : ''}${p} sport set ct original proto-dst`,
  );
  // As setPort() does for the way there: a datagram without a checksum keeps none.
  const plain = family === 4 ? '    udp checksum 0 @th,0,16 set ct original proto-dst\n' : '';
  return `  chain choose-port {
${setPort(family, (p) => `${ip} daddr . meta l4proto . ${p} dport map @ports`)}    accept
  }
  chain keep-port {
${setPort(family, () => 'ct reply proto-src')}  }
  chain ports-back-input {
    type filter hook input priority 109; policy accept;
    ct direction reply ct label ${PORTED_LABEL} goto port-back
  }
  chain ports-back-output {
    type filter hook postrouting priority 150; policy accept;
    ct direction reply ct label ${PORTED_LABEL} goto port-back
  }
  chain port-back {
${plain}${back}  }
`;
}

function sourceChains({ ip, original, pod }: Keys): string {
  return `  chain nat-postrouting {
    type nat hook postrouting priority 100; policy accept;
${each((p) => `meta l4proto ${p} ${original} @frontends goto choose-source`)}  }
  chain choose-source {
    ${ip} saddr . ${ip} daddr @hairpin goto ${MASQUERADE}
    ${ip} saddr @addresses goto ${MASQUERADE} comment "the node, to an address of its own device"
    ct original ${ip} daddr @masquerade-addresses goto by-frontend
    ct original ${ip} daddr @cluster-ips goto masquerade-strangers
  }
  chain by-frontend {
${each((p) => `meta l4proto ${p} ${original} @masquerade-always goto ${MASQUERADE}`)}${each((p) => `meta l4proto ${p} ${original} @masquerade-node goto masquerade-node`)}    ct original ${ip} daddr @cluster-ips goto masquerade-strangers
  }
${masqueradeRules()}  chain masquerade-strangers {
${pod ? `    ${pod} return\n    goto ${MASQUERADE}\n` : ''}  }
  chain masquerade-node {
${pod ? `    ${pod} return\n` : ''}    fib saddr type local goto ${MASQUERADE}
  }
`;
}

/** The whole table, dormant: it takes no packet until it is complete. */
export function skeletonText(table: string, family: Family, detector: LocalDetector): string {
  const keys = keysOf(family, detector);
  return `table ${keys.ip} ${table} {
  flags dormant;
${declarations(keys)}${enterChains(keys)}${leaveChains(keys)}${portChains(family, keys)}${sourceChains(keys)}}
`;
}
