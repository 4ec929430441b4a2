/** The packet that `triplane explain` is asked about: SRC DST:PORT/PROTO. */
import { parseAddress } from '../model/address.ts';
import { TriplaneError } from '../model/errors.ts';
import type { Address, Protocol } from '../model/records.ts';
import type { SocketAddress } from '../model/socket.ts';

export interface PacketArguments {
  readonly source: Address;
  readonly destination: SocketAddress;
  readonly protocol: Protocol;
}

const FORM = 'ADDRESS:PORT/PROTOCOL, such as 10.96.0.10:53/UDP or [fd00::a]:443/TCP';
const PROTOCOLS: readonly string[] = ['TCP', 'UDP', 'SCTP'];

/** Throws TP_BAD_FLAG that says which argument is wrong. The protocol may be left out: TCP. */
export function parsePacket(sourceText: string, destinationText: string): PacketArguments {
  const source = parseAddress(unbracket(sourceText));
  if (source === null) bad(`the source ${JSON.stringify(sourceText)} is not an address`);
  const parts = /^(?:\[([^\]]+)\]|([^:[\]/]+)):(\d{1,5})(?:\/(\w+))?$/.exec(destinationText);
  if (parts === null) bad(`the destination ${JSON.stringify(destinationText)} is not of the form ${FORM}`);
  const address = parseAddress(parts[1] ?? parts[2]!);
  if (address === null) bad(`the destination ${JSON.stringify(destinationText)} names no address: ${FORM}`);
  const port = Number(parts[3]);
  if (port < 1 || port > 65535) bad(`the destination port ${parts[3]} is not within 1-65535`);
  const protocol = (parts[4] ?? 'TCP').toUpperCase();
  if (!PROTOCOLS.includes(protocol)) bad(`the protocol ${JSON.stringify(parts[4])} is not TCP, UDP or SCTP`);
  if (source.includes(':') !== address.includes(':')) bad('source and destination are of different families');
  return { source, destination: { address, port }, protocol: protocol as Protocol };
}

function unbracket(text: string): string {
  return /^\[.*\]$/.test(text) ? text.slice(1, -1) : text;
}

function bad(message: string): never {
  throw new TriplaneError('TP_BAD_FLAG', message);
}
