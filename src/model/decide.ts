/**
 * The semantics in executable form: what happens to a packet under a desired state. `triplane explain`
 * prints it, and every dataplane is tested against it. The order of the steps is that of kube-proxy's
 * nftables chains: the guard (firewall-check), dispatch (services), then what was not translated
 * (service-endpoints-check, cluster-ips-check).
 *
 * The packet is the first of its flow that this node sees: later ones go where the first went. A TCP packet
 * from the middle of a connection that nobody here knows is such a first packet too.
 */
import { cidrContains } from './address.ts';
import type {
  Answer,
  Backend,
  DesiredPort,
  DesiredState,
  Frontend,
  LocalDetector,
  Masquerade,
} from './desired.ts';
import { detectorSpeaks } from './detector.ts';
import type { Address, Family, ObjectKey, Protocol } from './records.ts';

export interface Packet {
  readonly family: Family;
  readonly protocol: Protocol;
  readonly source: Address;
  readonly destination: Address;
  /** The destination port. */
  readonly port: number;
  /**
   * 'node': sent by a process of this node in its own network namespace. 'pod' or 'outside': it came in from
   * elsewhere, and counts as what the detector says; these two differ only where the detector goes by
   * interface and `interface` is not given.
   */
  readonly from: 'node' | 'pod' | 'outside';
  /** The interface through which it came in, when known. */
  readonly interface?: string;
}

/** A backend that may be picked, with what happens to the source address then. */
export interface BackendChoice extends Backend {
  readonly masquerade: boolean;
}

export type Verdict = {
  /** The steps that led here, one readable line each. */
  readonly because: readonly string[];
} & (
  | {
      readonly action: 'forward';
      readonly service: ObjectKey;
      readonly port: DesiredPort;
      readonly frontend: Frontend;
      readonly pool: 'cluster' | 'local';
      /** One of these is picked with equal chances, unless affinity remembers one of them. Never empty. */
      readonly backends: readonly BackendChoice[];
      /** 0: no affinity. */
      readonly affinitySeconds: number;
    }
  | { readonly action: 'reject'; readonly how: 'tcp-reset' | 'port-unreachable' }
  | { readonly action: 'drop' }
  /** Not ours: it goes on untouched. */
  | { readonly action: 'pass' }
);

/** Whether the packet counts as a pod's. What the node itself sends has no arrival interface. */
export function isPod(detector: LocalDetector, packet: Packet): boolean {
  switch (detector.by) {
    case 'cidr':
      return detector.cidrs.some((cidr) => cidrContains(cidr, packet.source));
    case 'bridge':
      if (packet.from === 'node') return false;
      return packet.interface === undefined ? packet.from === 'pod' : packet.interface === detector.name;
    case 'prefix':
      if (packet.from === 'node') return false;
      return packet.interface === undefined
        ? packet.from === 'pod'
        : packet.interface.startsWith(detector.prefix);
    case 'none':
      return false;
  }
}

interface Found {
  readonly service: ObjectKey;
  readonly port: DesiredPort;
  readonly frontend: Frontend;
}

function findFrontend(state: DesiredState, packet: Packet): Found | null {
  for (const { key, ports } of state.services.values()) {
    for (const port of ports) {
      if (port.family !== packet.family || port.protocol !== packet.protocol) continue;
      for (const frontend of port.frontends) {
        if (frontend.port === packet.port && frontend.address === packet.destination) {
          return { service: key, port, frontend };
        }
      }
    }
  }
  return null;
}

function isClusterIP(state: DesiredState, address: Address): boolean {
  for (const { ports } of state.services.values()) {
    for (const port of ports) {
      for (const frontend of port.frontends) {
        if (frontend.kind === 'ClusterIP' && frontend.address === address) return true;
      }
    }
  }
  return false;
}

function refuse(protocol: Protocol, because: readonly string[]): Verdict {
  return { action: 'reject', how: protocol === 'TCP' ? 'tcp-reset' : 'port-unreachable', because };
}

type Sender = 'pod' | 'node' | 'stranger';

function senderOf(state: DesiredState, packet: Packet, because: string[]): Sender {
  const { detector } = state.node;
  if (isPod(detector, packet)) {
    because.push(`${packet.source} is a pod, as the local detector (${detector.by}) says`);
    return 'pod';
  }
  if (packet.from === 'node') {
    because.push(`${packet.source} is this node itself`);
    return 'node';
  }
  because.push(
    detectorSpeaks(detector, packet.family)
      ? `${packet.source} is no pod, as the local detector (${detector.by}) says`
      : `${packet.source} counts as no pod: the local detector cannot tell for IPv${packet.family}`,
  );
  return 'stranger';
}

function isMasqueraded(when: Masquerade, sender: Sender, speaks: boolean): boolean {
  switch (when) {
    case 'always':
      return true;
    case 'strangers':
      return speaks && sender !== 'pod';
    case 'node':
      return sender === 'node';
  }
}

const MASQUERADE_REASON: Record<Masquerade, string> = {
  always: 'all traffic to this frontend is masqueraded',
  strangers: 'only sources that are no pods are masqueraded here',
  node: "only the node's own traffic is masqueraded here",
};

function forward(
  { state, own }: Situation,
  packet: Packet,
  found: Found,
  pool: 'cluster' | 'local',
  sender: Sender,
  because: string[],
): Verdict {
  const { service, port, frontend } = found;
  const speaks = detectorSpeaks(state.node.detector, packet.family);
  const always = isMasqueraded(frontend.masquerade, sender, speaks);
  // What comes in and is delivered here passes no place where a source is rewritten.
  const isDeliveredHere = (address: Address) => sender !== 'node' && own.includes(address);
  const backends = port[pool].map((backend) => ({
    ...backend,
    masquerade: (always && !isDeliveredHere(backend.address)) || backend.address === packet.source,
  }));
  because.push(`the ${pool} pool has ${backends.length} backend${backends.length === 1 ? '' : 's'}`);
  because.push(
    `${MASQUERADE_REASON[frontend.masquerade]}: this packet is ${always ? '' : 'not '}masqueraded`,
  );
  if (always && backends.some((backend) => !backend.masquerade))
    because.push("a backend on this node's own network sees the client's own address all the same");
  if (!always && backends.some((backend) => backend.masquerade)) {
    because.push(`${packet.source} is a backend itself: masqueraded if it is picked (hairpin)`);
  }
  if (port.affinitySeconds > 0) {
    because.push(
      `the backend is remembered for ${packet.source} for ${port.affinitySeconds} s after its last new flow`,
    );
  }
  const { affinitySeconds } = port;
  return { action: 'forward', service, port, frontend, pool, backends, affinitySeconds, because };
}

interface Situation {
  readonly state: DesiredState;
  /** Addresses of this node. */
  readonly own: readonly Address[];
}

function decideFrontend(situation: Situation, packet: Packet, found: Found): Verdict {
  const { state } = situation;
  const { port, frontend } = found;
  const because = [
    `${packet.destination}:${packet.port}/${packet.protocol} is ${frontend.kind} of ${port.name}`,
  ];
  const ranges = frontend.sourceRanges;
  if (ranges !== null) {
    const range = ranges.find((cidr) => cidrContains(cidr, packet.source));
    if (range === undefined) {
      because.push(`${packet.source} is in none of its loadBalancerSourceRanges`);
      return { action: 'drop', because };
    }
    because.push(`${packet.source} is within ${range} of its loadBalancerSourceRanges`);
  }
  const sender = senderOf(state, packet, because);
  const side = sender === 'stranger' ? 'outside' : 'inside';
  const answer: Answer = frontend[side];
  if (answer === 'drop') {
    because.push('its traffic policy is Local and there is no usable endpoint on this node');
    return { action: 'drop', because };
  }
  if (answer === 'reject' || port[answer].length === 0) {
    because.push('there is no usable endpoint anywhere');
    return refuse(packet.protocol, because);
  }
  return forward(situation, packet, found, answer, sender, because);
}

/**
 * What becomes of a packet. Costs a walk over all services: for people and tests, not for traffic.
 *
 * @param own the addresses of this node
 */
export function decide(state: DesiredState, packet: Packet, own: readonly Address[] = []): Verdict {
  const found = findFrontend(state, packet);
  if (found) return decideFrontend({ state, own }, packet, found);
  const because = [`nothing listens on ${packet.destination}:${packet.port}/${packet.protocol}`];
  if (isClusterIP(state, packet.destination)) {
    because.push(`${packet.destination} is the ClusterIP of a service without such a port`);
    return refuse(packet.protocol, because);
  }
  const range = state.node.serviceCIDRs.find((cidr) => cidrContains(cidr, packet.destination));
  if (range !== undefined) {
    because.push(`no service has this address of the ServiceCIDR ${range}`);
    return { action: 'drop', because };
  }
  because.push('it is no address of a service');
  return { action: 'pass', because };
}
