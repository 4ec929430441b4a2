/**
 * SCTP without SCTP sockets, which not every kernel has: an INIT made by hand, and a count of those that
 * arrive with a right checksum (connection tracking at the receiver looks at it).
 */
import type { Packet } from '../../src/model/decide.ts';
import type { HostName, NodeWorld } from './node-world.ts';

export const SCTP_SENDER = '/usr/bin/python3';

/** Arguments: source, destination, destination port. The checksum is CRC32c (RFC 9260, appendix A). */
const PROGRAM = `
import socket, struct, sys
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
source, destination, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
init = struct.pack('>BBHIIHHI', 1, 0, 20, 0x12345678, 65536, 1, 1, 1)
head = lambda crc: struct.pack('>HHI', 40000, port, 0) + struct.pack('<I', crc)
packet = head(crc32c(head(0) + init)) + init
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
s.bind((source, 0))
s.sendto(packet, (destination, 0))
`;

/** Sends one INIT; the number that arrived at a backend with a right checksum, or 0 without one to look at. */
export async function sendSctpInit(
  world: NodeWorld,
  sender: HostName,
  packet: Packet,
  receiver: { readonly at: HostName; readonly port: number } | null,
): Promise<number> {
  const rules = `table ip sctp-seen { chain seen { type filter hook input priority 0;
    sctp dport ${receiver?.port ?? 0} ct state new counter
  }
}
`;
  if (receiver) {
    const made = await world.run(receiver.at, ['nft', '-f', '-'], rules);
    if (made.status !== 0) throw new Error(made.stderr);
  }
  const sent = await world.run(
    sender,
    [SCTP_SENDER, '-', packet.source, packet.destination, String(packet.port)],
    PROGRAM,
  );
  if (sent.status !== 0) throw new Error(sent.stderr);
  if (!receiver) return 0;
  try {
    for (let look = 0; look < 50; look++) {
      const { stdout } = await world.run(receiver.at, ['nft', 'list', 'table', 'ip', 'sctp-seen']);
      const seen = Number(/counter packets (\d+)/.exec(stdout)?.[1] ?? 0);
      if (seen > 0) return seen;
    }
    return 0;
  } finally {
    await world.run(receiver.at, ['nft', 'delete', 'table', 'ip', 'sctp-seen']);
  }
}
