/**
 * Keeps the kernel translating connections after the table that made them is gone: connection tracking and NAT stand
 * in a network namespace only as long as somebody's rules ask for them, so without it every such connection would die
 * where no other program has rules of the kind. It takes a NAT base chain and a ct expression; one alone is not enough.
 *
 * Its set names the frontends whose connections are still about, for whoever looks and for an agent that starts while
 * they are.
 */
import { formatAddress } from '../../model/address.ts';
import type { Address, Family, Protocol } from '../../model/records.ts';
import { commitTo } from './commit.ts';
import { addressSize, type SetLayout } from './layout.ts';
import { NFPROTO, withNftSocket } from './native.ts';
import { NO_OWNER, OP, PROTOCOL_NUMBER } from './packed.ts';
import { removeTable } from './remove-table.ts';
import { applySkeleton } from './skeleton-loader.ts';

export const KEEPER_TABLE = 'triplane-keeper';
const SET_NAME = 'frontends';
const FAMILIES = [4, 6] as const;
/** Elements in one transaction: far below what a socket's buffer takes. */
const ELEMENTS_PER_BATCH = 500;

export interface KeptFrontend {
  readonly address: Address;
  readonly port: number;
  readonly protocol: Protocol;
}

/** One string for each frontend. */
export function keptKey({ address, port, protocol }: KeptFrontend): string {
  return `${address} ${port} ${protocol}`;
}

function keeperText(family: Family): string {
  const [ip, type] = family === 4 ? ['ip', 'ipv4_addr'] : ['ip6', 'ipv6_addr'];
  return `table ${ip} ${KEEPER_TABLE} {
  set ${SET_NAME} { type ${type} . inet_proto . inet_service; comment "whose connections the kernel still translates"; }
  chain keep {
    type nat hook prerouting priority -100; policy accept;
    ct state new counter comment "NAT and connection tracking stay for connections from before"
  }
}
`;
}

const LAYOUTS: Readonly<Record<Family, readonly SetLayout[]>> = {
  4: [{ name: SET_NAME, keyBytes: addressSize(4) + 8, dataBytes: 0 }],
  6: [{ name: SET_NAME, keyBytes: addressSize(6) + 8, dataBytes: 0 }],
};

export class Keeper {
  readonly #netns: string;

  /** @param netns path of a network namespace; '' is the current one */
  constructor(netns: string) {
    this.#netns = netns;
  }

  /** Families in which it stands. */
  async families(): Promise<Family[]> {
    return withNftSocket(this.#netns, async (socket) => {
      const found: Family[] = [];
      for (const family of FAMILIES)
        if ((await socket.dumpNames(NFPROTO[family], KEEPER_TABLE)).tableFlags >= 0) found.push(family);
      return found;
    });
  }

  /** Idempotent. Throws as applySkeleton() does. */
  async install(): Promise<void> {
    const there = await this.families();
    const missing = FAMILIES.filter((family) => !there.includes(family));
    if (missing.length > 0) await applySkeleton(missing.map(keeperText).join(''), this.#netns);
  }

  /** Writes down whose connections are still about. Throws TP_KERNEL_REFUSED. */
  async remember(frontends: readonly KeptFrontend[]): Promise<void> {
    await withNftSocket(this.#netns, async (socket) => {
      for (const family of FAMILIES) {
        const own = frontends.filter(({ address }) => address.includes(':') === (family === 6));
        for (let from = 0; from < own.length; from += ELEMENTS_PER_BATCH) {
          const target = { family, table: KEEPER_TABLE, layouts: LAYOUTS[family] };
          await commitTo(socket, target, (out) => {
            for (const { address, port, protocol } of own.slice(from, from + ELEMENTS_PER_BATCH)) {
              out.u8(OP.addElement);
              out.u32(NO_OWNER);
              out.u8(0);
              out.u8(0);
              out.address(address);
              out.protocol(protocol);
              out.port(port);
              out.text('');
            }
          });
        }
      }
    });
  }

  /** What remember() was told; empty where it does not stand. */
  async frontends(): Promise<KeptFrontend[]> {
    return withNftSocket(this.#netns, async (socket) => {
      const found: KeptFrontend[] = [];
      for (const family of FAMILIES) {
        const proto = NFPROTO[family];
        if ((await socket.dumpNames(proto, KEEPER_TABLE)).tableFlags < 0) continue;
        const { packed } = await socket.dumpElements(proto, KEEPER_TABLE, LAYOUTS[family], 0, false);
        found.push(...readFrontends(family, packed));
      }
      return found;
    });
  }

  /** Takes it away. True: it was there. */
  async remove(): Promise<boolean> {
    return withNftSocket(this.#netns, async (socket) => {
      let there = false;
      for (const family of FAMILIES) if (await removeTable(socket, family, KEEPER_TABLE)) there = true;
      return there;
    });
  }
}

const PROTOCOL_OF = new Map<number, Protocol>(
  Object.entries(PROTOCOL_NUMBER).map(([name, number]) => [number, name as Protocol]),
);

/** Flag byte, address, protocol, port, comment (a length and its bytes), one after the other. */
function readFrontends(family: Family, packed: Uint8Array): KeptFrontend[] {
  const bytes = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength);
  const size = addressSize(family);
  const found: KeptFrontend[] = [];
  for (let at = 0; at < bytes.length; ) {
    const protocol = PROTOCOL_OF.get(bytes[at + 1 + size]!);
    const address = formatAddress(bytes.subarray(at + 1, at + 1 + size));
    if (protocol) found.push({ address, port: bytes.readUInt16BE(at + 1 + size + 4), protocol });
    at += 1 + size + 8;
    at += 1 + bytes[at]!;
  }
  return found;
}
