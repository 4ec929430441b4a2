/** `triplane get services|endpoints` in nft mode: what the kernel holds now, without the agent's help. */
import { formatAddress } from '../../model/address.ts';
import type { Address, Family, Protocol } from '../../model/records.ts';
import type { EndpointView, ServiceView } from '../dataplane.ts';
import { parsePickChain } from './chains.ts';
import type { ElementValue } from './elements.ts';
import { comparableSets, readSet } from './kernel-image.ts';
import { addressSize, SET, setLayouts, TABLE } from './layout.ts';
import { NFPROTO, type NftSocket, openNftSocket } from './native.ts';
import { PROTOCOL_NUMBER, poolNumber } from './packed.ts';

export interface ReadBack {
  /** False: there is no table of ours in this family or any other. */
  readonly present: boolean;
  readonly services: readonly ServiceView[];
  readonly endpoints: readonly EndpointView[];
}

const PROTOCOL_NAME = new Map<number, Protocol>(
  Object.entries(PROTOCOL_NUMBER).map(([name, number]) => [number, name as Protocol]),
);

interface FrontendKey {
  readonly address: Address;
  readonly port: number;
  readonly protocol: Protocol;
}

function bytesOf(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}

function frontendOf(family: Family, key: string): FrontendKey {
  const bytes = bytesOf(key.slice(1));
  const size = addressSize(family);
  return {
    address: formatAddress(bytes.subarray(0, size)),
    protocol: PROTOCOL_NAME.get(bytes[size]!) ?? 'TCP',
    port: bytes.readUInt16BE(size + 4),
  };
}

interface PoolView {
  /** From the comment: "namespace/name:port PROTOCOL cluster|local". */
  readonly service: string;
  readonly protocol: Protocol;
  readonly kind: 'cluster' | 'local';
  readonly affinitySeconds: number;
  readonly backends: { readonly address: Address; readonly port: number }[];
}

class FamilyReader {
  private readonly family: Family;
  private readonly sets = new Map<number, Map<string, ElementValue>>();

  constructor(family: Family) {
    this.family = family;
  }

  /** False: there is no table. */
  async read(socket: NftSocket): Promise<boolean> {
    const proto = NFPROTO[this.family];
    const names = await socket.dumpNames(proto, TABLE);
    if (names.tableFlags < 0) return false;
    for (const set of comparableSets(setLayouts(this.family), names)) {
      if (set === SET.hairpin || set === SET.clusterIPs) continue;
      this.sets.set(set, (await readSet(socket, proto, setLayouts(this.family), TABLE, set)).elements);
    }
    return true;
  }

  private elements(set: number): Iterable<ElementValue> {
    return this.sets.get(set)?.values() ?? [];
  }

  /** Keys (flag byte and key bytes) of a set of frontends. */
  private keys(set: number): Set<string> {
    return new Set(Array.from(this.elements(set), (e) => e.key));
  }

  pools(): Map<number, PoolView> {
    const ways = new Map(
      Array.from(this.elements(SET.picks), (e) => [e.key.slice(1), parsePickChain(e.data)]),
    );
    const pools = new Map<number, PoolView>();
    for (const element of this.elements(SET.pools)) {
      const [service = '', protocol = 'TCP', kind = 'cluster'] = element.comment.split(' ');
      pools.set(poolNumber(bytesOf(element.key.slice(1))), {
        service,
        protocol: protocol as Protocol,
        kind: kind as 'cluster' | 'local',
        affinitySeconds: ways.get(element.data)?.affinitySeconds ?? 0,
        backends: [],
      });
    }
    const size = addressSize(this.family);
    for (const element of this.elements(SET.members)) {
      const data = bytesOf(element.data);
      const pool = pools.get(poolNumber(bytesOf(element.key.slice(1)).subarray(0, size)));
      pool?.backends.push({ address: formatAddress(data.subarray(0, size)), port: data.readUInt16BE(size) });
    }
    return pools;
  }

  /** How many source ranges each guarded frontend has. */
  private rangeCounts(): Map<string, number> {
    const counts = new Map<string, number>();
    const length = 1 + addressSize(this.family) + 8;
    for (let set: number = SET.ranges; set < setLayouts(this.family).length; set++) {
      for (const element of this.elements(set)) {
        const key = element.key.slice(0, length);
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
    }
    return counts;
  }

  services(pools: Map<number, PoolView>): ServiceView[] {
    const ranges = this.rangeCounts();
    const always = this.keys(SET.masqueradeAlways);
    const node = this.keys(SET.masqueradeNode);
    const dropped = this.keys(SET.dropped);
    const outside = new Map(Array.from(this.elements(SET.outside), (e) => [e.key, e]));
    const answer = (element: ElementValue) => {
      const number = poolNumber(bytesOf(element.data));
      return number === 0 ? 'drop' : backendsText(pools.get(number)?.backends.length ?? 0);
    };
    const view = (element: ElementValue, inside: string): ServiceView => {
      const [kind = '', service = ''] = element.comment.split(' ');
      const other = outside.get(element.key);
      return {
        service,
        kind,
        ...frontendOf(this.family, element.key),
        inside,
        outside: other ? answer(other) : inside,
        affinitySeconds: pools.get(poolNumber(bytesOf(element.data || '\0\0\0\0')))?.affinitySeconds ?? 0,
        masquerade: always.has(element.key) ? 'always' : node.has(element.key) ? 'node' : 'strangers',
        sourceRanges: ranges.get(element.key) ?? 0,
      };
    };
    return [
      ...Array.from(this.elements(SET.services), (e) => view(e, answer(e))),
      ...Array.from(this.elements(SET.unanswered), (e) => view(e, dropped.has(e.key) ? 'drop' : 'reject')),
    ];
  }
}

function backendsText(count: number): string {
  return count === 1 ? '1 backend' : `${count} backends`;
}

/** Reads both families in the namespace at `netns` ('': this one). */
export async function readNft(netns = ''): Promise<ReadBack> {
  const socket = openNftSocket(netns);
  try {
    let present = false;
    const services: ServiceView[] = [];
    const endpoints: EndpointView[] = [];
    for (const family of [4, 6] as const) {
      const reader = new FamilyReader(family);
      if (!(await reader.read(socket))) continue;
      present = true;
      const pools = reader.pools();
      services.push(...reader.services(pools));
      for (const { service, protocol, kind, backends } of pools.values()) {
        endpoints.push(...backends.map((backend) => ({ service, pool: kind, protocol, ...backend })));
      }
    }
    return { present, services, endpoints };
  } finally {
    socket.close();
  }
}
