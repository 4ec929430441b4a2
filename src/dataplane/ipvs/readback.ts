/** `triplane get services|endpoints` in ipvs mode: what the kernel holds now, without the agent's help. */
import { formatAddress } from '../../model/address.ts';
import type { Address, Family, Protocol } from '../../model/records.ts';
import type { EndpointView, ServiceView } from '../dataplane.ts';
import type { ElementValue } from '../nft/elements.ts';
import { comparableSets, readSet } from '../nft/kernel-image.ts';
import { addressSize, SET } from '../nft/layout.ts';
import { NFPROTO, type NftSocket, openNftSocket } from '../nft/native.ts';
import { PROTOCOL_NUMBER } from '../nft/packed.ts';
import type { ReadBack } from '../nft/readback.ts';
import { poolOfMark } from './marks.ts';
import { openIpvsSocket } from './native.ts';
import { readServices, type ServiceRow } from './packed-ipvs.ts';
import { IPVS_SCHEME, IPVS_TABLE } from './scheme.ts';

const PROTOCOL_NAME = new Map<number, Protocol>(
  Object.entries(PROTOCOL_NUMBER).map(([name, number]) => [number, name as Protocol]),
);

function bytesOf(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}

interface PoolName {
  readonly service: string;
  readonly protocol: Protocol;
  readonly kind: 'cluster' | 'local';
}

class FamilyReader {
  private readonly family: Family;
  private readonly virtual: Map<number, ServiceRow>;
  private readonly sets = new Map<number, Map<string, ElementValue>>();

  constructor(family: Family, services: readonly ServiceRow[]) {
    this.family = family;
    const own = services.filter((service) => service.family === family);
    this.virtual = new Map(own.map((service) => [service.mark, service]));
  }

  /** False: there is no table. */
  async read(socket: NftSocket): Promise<boolean> {
    const proto = NFPROTO[this.family];
    const names = await socket.dumpNames(proto, IPVS_TABLE);
    if (names.tableFlags < 0) return false;
    const layouts = IPVS_SCHEME.layouts(this.family);
    for (const set of comparableSets(layouts, names))
      this.sets.set(set, (await readSet(socket, proto, layouts, IPVS_TABLE, set)).elements);
    return true;
  }

  private elements(set: number): ElementValue[] {
    return [...(this.sets.get(set)?.values() ?? [])];
  }

  private keys(set: number): Set<string> {
    return new Set(this.elements(set).map((e) => e.key));
  }

  /** Backends with a weight; those without one only end what they began. */
  private backends(mark: number): readonly { readonly address: Address; readonly port: number }[] {
    return (this.virtual.get(mark)?.destinations ?? []).filter(({ weight }) => weight > 0);
  }

  private answer(element: ElementValue): string {
    const mark = bytesOf(element.data).readUInt32LE(0);
    if (mark === 0) return 'drop';
    const count = this.backends(mark).length;
    return count === 1 ? '1 backend' : `${count} backends`;
  }

  endpoints(): EndpointView[] {
    return this.elements(SET.pools).flatMap((element) => {
      const mark = bytesOf(element.key.slice(1)).readUInt32LE(0);
      if (poolOfMark(mark) === 0) return [];
      const { service, protocol, kind } = poolName(element.comment);
      return this.backends(mark).map(({ address, port }) => ({
        service,
        pool: kind,
        protocol,
        address,
        port,
      }));
    });
  }

  private rangeCounts(): Map<string, number> {
    const counts = new Map<string, number>();
    const length = 1 + addressSize(this.family) + 8;
    const last = IPVS_SCHEME.layouts(this.family).length;
    for (let set: number = SET.ranges; set < last; set++) {
      for (const { key } of this.elements(set)) {
        const frontend = key.slice(0, length);
        counts.set(frontend, (counts.get(frontend) ?? 0) + 1);
      }
    }
    return counts;
  }

  services(): ServiceView[] {
    const ranges = this.rangeCounts();
    const always = this.keys(SET.masqueradeAlways);
    const node = this.keys(SET.masqueradeNode);
    const dropped = this.keys(SET.dropped);
    const outside = new Map(this.elements(SET.outside).map((e) => [e.key, e]));
    const view = (element: ElementValue, inside: string): ServiceView => {
      const { key, comment, data } = element;
      const [kind = '', service = ''] = comment.split(' ');
      const bytes = bytesOf(key.slice(1));
      const size = addressSize(this.family);
      const other = outside.get(key);
      const mark = data.length === 4 ? bytesOf(data).readUInt32LE(0) : 0;
      return {
        service,
        kind,
        address: formatAddress(bytes.subarray(0, size)),
        protocol: PROTOCOL_NAME.get(bytes[size]!) ?? 'TCP',
        port: bytes.readUInt16BE(size + 4),
        inside,
        outside: other ? this.answer(other) : inside,
        affinitySeconds: this.virtual.get(mark)?.timeoutSeconds ?? 0,
        masquerade: always.has(key) ? 'always' : node.has(key) ? 'node' : 'strangers',
        sourceRanges: ranges.get(key) ?? 0,
      };
    };
    return [
      ...this.elements(SET.services).map((e) => view(e, this.answer(e))),
      ...this.elements(SET.unanswered).map((e) => view(e, dropped.has(e.key) ? 'drop' : 'reject')),
    ];
  }
}

function poolName(comment: string): PoolName {
  const [service = '', protocol = 'TCP', kind = 'cluster'] = comment.split(' ');
  return { service, protocol: protocol as Protocol, kind: kind as PoolName['kind'] };
}

/** Reads both families in the namespace at `netns` ('': this one). */
export async function readIpvs(netns = ''): Promise<ReadBack> {
  const socket = openNftSocket(netns);
  try {
    const present: FamilyReader[] = [];
    let virtual: readonly ServiceRow[] | null = null;
    for (const family of [4, 6] as const) {
      if ((await socket.dumpNames(NFPROTO[family], IPVS_TABLE)).tableFlags < 0) continue;
      virtual ??= await dumpVirtual(netns);
      const reader = new FamilyReader(family, virtual);
      if (await reader.read(socket)) present.push(reader);
    }
    return {
      present: present.length > 0,
      services: present.flatMap((reader) => reader.services()),
      endpoints: present.flatMap((reader) => reader.endpoints()),
    };
  } finally {
    socket.close();
  }
}

async function dumpVirtual(netns: string): Promise<readonly ServiceRow[]> {
  const socket = openIpvsSocket(netns);
  try {
    return readServices(await socket.dump());
  } finally {
    socket.close();
  }
}
