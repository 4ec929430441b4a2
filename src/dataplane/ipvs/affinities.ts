/**
 * What IPVS remembers of the clients of sticky services: its persistence templates. Only /proc/net/ip_vs_conn shows them
 * (ip_vs_conn_seq_show of net/netfilter/ipvs/ip_vs_conn.c), among all connections. Nobody but the kernel can make one.
 */
import { createReadStream, existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { formatAddress } from '../../model/address.ts';
import type { Address, Family } from '../../model/records.ts';
import type { AffinityView } from '../dataplane.ts';
import type { FamilyKernel } from '../nft/family-kernel.ts';
import { poolOfMark } from './marks.ts';

export const CONNECTIONS_FILE = '/proc/net/ip_vs_conn';

/** A template of one of our virtual services. */
export interface Template {
  readonly family: Family;
  readonly pool: number;
  readonly client: Address;
  readonly backend: Address;
  readonly secondsLeft: number;
}

/** %08X of an address in host order, or %pI6: eight groups of four digits. */
function addressOf(text: string): Address | null {
  const digits = text.replaceAll(':', '');
  if (!/^([0-9A-Fa-f]{8}|[0-9A-Fa-f]{32})$/.test(digits)) return null;
  return formatAddress(Buffer.from(digits, 'hex'));
}

/** The first four bytes hold the mark, in network order, in the place of the virtual address. */
function markIn(text: string): number {
  return Number.parseInt(text.replaceAll(':', '').slice(0, 8), 16);
}

/** One line; null: something else. A template of a firewall mark has protocol IP, and no port of the client. */
export function templateOf(line: string): Template | null {
  const [protocol, from, fromPort, to, , destination, , , expires] = line.trim().split(/\s+/);
  if (protocol !== 'IP' || fromPort !== '0000' || !from || !to || !destination) return null;
  const pool = poolOfMark(markIn(to));
  const [client, backend] = [addressOf(from), addressOf(destination)];
  const secondsLeft = Number(expires);
  if (pool === 0 || !client || !backend || !Number.isFinite(secondsLeft)) return null;
  return { family: from.includes(':') ? 6 : 4, pool, client, backend, secondsLeft };
}

/** Of the current network namespace. Line by line: a node may have a million connections. */
export async function readTemplates(file = CONNECTIONS_FILE): Promise<Template[]> {
  const found: Template[] = [];
  if (!existsSync(file)) return found;
  const lines = createInterface({ input: createReadStream(file), crlfDelay: Number.POSITIVE_INFINITY });
  for await (const line of lines) {
    const template = templateOf(line);
    if (template) found.push(template);
  }
  return found;
}

/** In words that every mode knows; of templates whose pool is there and has the backend. */
export function affinitiesOf(
  templates: readonly Template[],
  tables: readonly Pick<FamilyKernel, 'family' | 'table'>[],
): AffinityView[] {
  const byPool = new Map<string, Template[]>();
  for (const template of templates) {
    const key = `${template.family} ${template.pool}`;
    byPool.set(key, [...(byPool.get(key) ?? []), template]);
  }
  const found: AffinityView[] = [];
  if (templates.length === 0) return found;
  for (const { family, table } of tables)
    for (const [, state] of table.states())
      for (const { port, cluster, local } of 'ports' in state ? state.ports : [])
        for (const pool of [cluster, local])
          for (const { client, backend, secondsLeft } of (pool && byPool.get(`${family} ${pool.number}`)) ??
            []) {
            const slot = pool!.slots.find(({ address }) => address === backend);
            const { name, protocol } = port;
            if (slot) found.push({ port: name, family, protocol, client, backend: slot, secondsLeft });
          }
  return found;
}
