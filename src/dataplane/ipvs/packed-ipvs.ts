/** The packed form of IPVS requests and dumps, shared with native/ipvs.cc. Little-endian. */
import { addressBytes, formatAddress } from '../../model/address.ts';
import type { Address, Family } from '../../model/records.ts';
import type { PackedWriter } from '../nft/packed.ts';
import type { TrafficCounts } from '../traffic.ts';

/** native/ipvs.h and the cases of native/ipvs.cc. */
export const IPVS_OP = {
  newService: 1,
  setService: 2,
  delService: 3,
  newDestination: 4,
  setDestination: 5,
  delDestination: 6,
} as const;
const SERVICE_ROW = 1;

/** A virtual service by its firewall mark. */
export interface ServiceName {
  readonly family: Family;
  readonly mark: number;
}

export interface ServiceSettings {
  readonly scheduler: string;
  /** IP_VS_SVC_F_* of linux/ip_vs.h. */
  readonly flags: number;
  /** Of persistence; 0 without. */
  readonly timeoutSeconds: number;
}

export interface Destination {
  readonly address: Address;
  readonly port: number;
  readonly weight: number;
}

export interface DestinationRow extends Destination {
  readonly connections: number;
  readonly counts: TrafficCounts;
}

export interface ServiceRow extends ServiceName, ServiceSettings {
  readonly destinations: readonly DestinationRow[];
  readonly counts: TrafficCounts;
}

function head(out: PackedWriter, op: number, { family, mark }: ServiceName): void {
  out.u8(op);
  out.u8(family);
  out.u32(mark);
}

export function writeService(
  out: PackedWriter,
  op: 'newService' | 'setService',
  name: ServiceName,
  settings: ServiceSettings,
): void {
  head(out, IPVS_OP[op], name);
  out.text(settings.scheduler);
  out.u32(settings.flags);
  out.u32(settings.timeoutSeconds);
}

/** For a dump of some. */
export function writeServiceName(out: PackedWriter, { family, mark }: ServiceName): void {
  out.u8(family);
  out.u32(mark);
}

export function writeServiceRemoval(out: PackedWriter, name: ServiceName): void {
  head(out, IPVS_OP.delService, name);
}

export function writeDestination(
  out: PackedWriter,
  op: 'newDestination' | 'setDestination' | 'delDestination',
  name: ServiceName,
  to: Destination,
): void {
  head(out, IPVS_OP[op], name);
  out.raw(addressBytes(to.address));
  out.u32(to.port);
  if (op !== 'delDestination') out.u32(to.weight);
}

/** Rows as native/ipvs.cc writes them: a service, then its destinations. */
export function readServices(bytes: Buffer): ServiceRow[] {
  const services: (ServiceRow & { destinations: DestinationRow[] })[] = [];
  let at = 0;
  const u8 = () => bytes[at++]!;
  const u32 = () => {
    at += 4;
    return bytes.readUInt32LE(at - 4);
  };
  // Below 2^53, as bytes of years are.
  const u64 = () => u32() + u32() * 2 ** 32;
  // IPVS_STATS_ATTR_* in their order, which is that of evaluation here.
  const counts = (): TrafficCounts => {
    const [connections, packetsIn, packetsOut, bytesIn, bytesOut] = [u64(), u64(), u64(), u64(), u64()];
    return { connections, packetsIn, packetsOut, bytesIn, bytesOut };
  };
  while (at < bytes.length) {
    if (u8() === SERVICE_ROW) {
      const family = u8() as Family;
      const mark = u32();
      const length = u8();
      const scheduler = bytes.toString('latin1', at, at + length);
      at += length;
      const settings = { scheduler, flags: u32(), timeoutSeconds: u32() };
      services.push({ family, mark, ...settings, destinations: [], counts: counts() });
    } else {
      const service = services.at(-1)!;
      const size = service.family === 4 ? 4 : 16;
      const address = formatAddress(bytes.subarray(at, at + size));
      at += size;
      const port = u32();
      const weight = u32();
      const connections = u32() + u32();
      service.destinations.push({ address, port, weight, connections, counts: counts() });
    }
  }
  return services;
}
