/**
 * The rules that count, as text, in a table of their own: the one that carries the traffic is the same whether anything
 * is counted or not. What a packet belongs to is said by connection tracking, so one rule serves all services, and the
 * kernel makes a counter (an element with one) when the first packet asks for it.
 */
import type { Family } from '../../model/records.ts';
import type { TrafficSettings } from '../traffic.ts';
import { addressSize, type SetLayout, shortHash } from './layout.ts';
import { each, WORDS } from './skeleton.ts';

export const TRAFFIC_TABLE = 'triplane-traffic';

/** The names of the sets: connections that began, packets toward the service, packets back. */
export const TRAFFIC_SETS = ['connections', 'in', 'out'] as const;
export type TrafficSet = (typeof TRAFFIC_SETS)[number];

/** Counters in one set, at most: about 200 bytes and 16 more for each CPU. */
export const CELLS_MAX = { service: 65_536, endpoint: 262_144 } as const;

export function setsOf({ level }: TrafficSettings): readonly TrafficSet[] {
  if (level === 'off') return [];
  return level === 'traffic' ? TRAFFIC_SETS : ['connections'];
}

/** Before all who may give a connection its source: NAT chains behind those are not asked any more. */
const FIRST_OF_NAT = -190;
/** Behind all NAT of destinations, so that a first packet knows its endpoint. */
const AFTER_NAT = -90;

/** A connection's first packet comes here once it has its endpoint, and nothing can refuse it but a filter. */
function beginChains(): string {
  return ['postrouting', 'input']
    .map(
      (hook) => `  chain begin-${hook} {
    type nat hook ${hook} priority ${FIRST_OF_NAT}; policy accept;
    ct status dnat jump begin
  }
`,
    )
    .join('');
}

/** What a process of this node sends to another one comes by lo as well: it was counted when it went out. */
function countChains(): string {
  return `  chain count-prerouting {
    type filter hook prerouting priority ${AFTER_NAT}; policy accept;
    iif != "lo" ct status dnat goto count
  }
  chain count-output {
    type filter hook output priority ${AFTER_NAT}; policy accept;
    ct status dnat goto count
  }
  chain count {
    ct direction original goto count-in
    goto count-out
  }
`;
}

/** A table of both words' family; '' where nothing is counted. The name of an empty chain tells its version. */
export function trafficText(family: Family, settings: TrafficSettings): string {
  const sets = setsOf(settings);
  if (sets.length === 0) return '';
  const { ip, type } = WORDS[family];
  const byEndpoint = settings.by === 'endpoint';
  const keyType = `${type} . inet_proto . inet_service${byEndpoint ? ` . ${type} . inet_service` : ''}`;
  const key = `ct original ${ip} daddr . meta l4proto . ct original proto-dst${
    byEndpoint ? ` . ct reply ${ip} saddr . ct reply proto-src` : ''
  }`;
  const declaration = (set: TrafficSet) =>
    `  set ${set} { type ${keyType}; size ${CELLS_MAX[settings.by]}; flags dynamic; comment "frontend${
      byEndpoint ? ' . endpoint' : ''
    }"; }\n`;
  const counting = (set: TrafficSet) =>
    `  chain ${set === 'connections' ? 'begin' : `count-${set}`} {
${each((p) => `meta l4proto ${p} update @${set} { ${key} counter } return`)}  }
`;
  const body = `${sets.map(declaration).join('')}${sets.map(counting).join('')}${beginChains()}${
    sets.includes('in') ? countChains() : ''
  }`;
  return `table ${ip} ${TRAFFIC_TABLE} {
  chain ${markerOf(body)} { }
${body}}
`;
}

function markerOf(body: string): string {
  return `version-${shortHash(body)}`;
}

/** The empty chain by which a table of these settings is known; '': there is to be none. */
export function trafficMarker(family: Family, settings: TrafficSettings): string {
  return /chain (version-\w+)/.exec(trafficText(family, settings))?.[1] ?? '';
}

const layouts = new Map<string, readonly SetLayout[]>();

export function trafficLayouts(family: Family, settings: TrafficSettings): readonly SetLayout[] {
  const name = `${family} ${settings.level} ${settings.by}`;
  const known = layouts.get(name);
  if (known) return known;
  const frontend = addressSize(family) + 8;
  const keyBytes = frontend + (settings.by === 'endpoint' ? addressSize(family) + 4 : 0);
  const made = setsOf(settings).map((set) => ({ name: set, keyBytes, dataBytes: 0, dynamic: true as const }));
  layouts.set(name, made);
  return made;
}
