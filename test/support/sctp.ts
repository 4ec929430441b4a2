/**
 * SCTP without SCTP sockets, which not every kernel has: an INIT made by hand, and a count of those that
 * arrive with a right checksum (connection tracking at the receiver looks at it), or a server made by hand too.
 */
import type { ChildProcess } from 'node:child_process';
import type { Place } from '../../src/lab/place.ts';
import type { Packet } from '../../src/model/decide.ts';
import type { Family } from '../../src/model/records.ts';
import type { HostName, NodeWorld } from './node-world.ts';

export const SCTP_SENDER = '/usr/bin/python3';

/** What the programs below share. The checksum is CRC32c (RFC 9260, appendix A). */
const COMMON = `
import socket, struct, sys
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
def packet(sport, dport, chunk, tag=0):
    head = lambda crc: struct.pack('>HHI', sport, dport, tag) + struct.pack('<I', crc)
    return head(crc32c(head(0) + chunk)) + chunk
def raw(family):
    kind = socket.AF_INET if family == '4' else socket.AF_INET6
    return socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_SCTP)
def receive(s, family):
    data, who = s.recvfrom(65535)
    if family == '4':
        data = data[(data[0] & 15) * 4:]
    sport, dport, tag = struct.unpack('>HHI', data[:8])
    return data == packet(sport, dport, data[12:], tag), sport, dport, data[16:], who[0]
init = struct.pack('>BBHIIHHI', 1, 0, 20, 0x12345678, 65536, 1, 1, 1)
`;

/** Arguments: source, destination, destination port. */
const PROGRAM = `${COMMON}
source, destination, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = raw('4')
s.bind((source, 0))
s.sendto(packet(40000, port, init), (destination, 0))
`;

/** Arguments: family, port, name. Answers each packet with a right checksum by an INIT ACK: who, to whom. */
const SERVER = `${COMMON}
family, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
s = raw(family)
print('ready', flush=True)
while True:
    good, sport, dport, body, who = receive(s, family)
    if not good or dport != port:
        continue
    text = (name + ' ' + who).encode()
    text += bytes(-len(text) % 4)
    ack = struct.pack('>BBHIIHHI', 2, 0, 20 + len(text), 0x23456789, 65536, 1, 1, 1) + text
    # The tag that the INIT asks for: connection tracking finds others invalid.
    s.sendto(packet(dport, sport, ack, struct.unpack('>I', body[:4])[0]), (who, 0))
`;

/** Arguments: family, destination, port, own port. Prints what the server says, or what went wrong. */
const CLIENT = `${COMMON}
family, destination, port, own = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
s = raw(family)
s.settimeout(3)
try:
    s.connect((destination, 0))
    s.send(packet(own, port, init))
    while True:
        good, sport, dport, body, who = receive(s, family)
        if (sport, dport) == (port, own):
            break
    print(body[16:].rstrip(bytes(1)).decode() if good else 'bad checksum')
except ConnectionRefusedError:
    print('refused')
except TimeoutError:
    print('timeout')
`;

/** Serves until the process is killed. */
export async function serveSctp(
  place: Place,
  family: Family,
  port: number,
  name: string,
): Promise<ChildProcess> {
  const child = place.spawn([SCTP_SENDER, '-c', SERVER, String(family), String(port), name], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise((resolve, reject) => {
    child.stdout!.once('data', resolve);
    child.once('exit', () => reject(new Error('the SCTP server ended')));
  });
  return child;
}

/** Sends an INIT: "SERVER PEER" as the server says it, "refused", "timeout" or "bad checksum". */
export async function askSctp(place: Place, address: string, port: number, ownPort: number): Promise<string> {
  const family = address.includes(':') ? '6' : '4';
  const args = [family, address, String(port), String(ownPort)];
  const { stdout, stderr } = await place.exec([SCTP_SENDER, '-c', CLIENT, ...args]);
  return stdout.trim() || stderr;
}

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
