/**
 * Removes what kube-proxy left, in any of its modes (pkg/proxy/iptables, ipvs and nftables, each cleanup.go). Tables
 * and devices over netlink; iptables, ipset and IPVS through the tools that made them, where they are installed.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { ipvsNative } from '../dataplane/ipvs/native.ts';
import { cleanupNft } from '../dataplane/nft/cleanup.ts';
import { NFPROTO, openNftSocket } from '../dataplane/nft/native.ts';
import { NFT_SCHEME } from '../dataplane/nft/scheme.ts';
import { addressBytes } from '../model/address.ts';
import { TriplaneError } from '../model/errors.ts';
import { readAddresses, readLinks } from '../node/rtnetlink.ts';
import { KUBE_PROXY_LINK } from '../node/service-link.ts';
import { isOwnChain, leftoversIn } from './iptables-text.ts';
import { connectionsOf, type IpvsServer, type OwnSets, serversIn, setsIn } from './kube-proxy-ipvs.ts';

/** 'ended': what IPVS still carries connections with stays until they have ended; 'all': it goes with them. */
export type Leaving = 'ended' | 'all';

/** One line for each thing. */
export interface CleanedKubeProxy {
  readonly removed: readonly string[];
  readonly left: readonly string[];
  readonly failures: readonly unknown[];
}
interface Lines {
  readonly removed: string[];
  readonly left: string[];
}

const TABLE = 'kube-proxy';
const TOOL_MS_MAX = 60_000;
const OUTPUT_BYTES_MAX = 512 * 1024 * 1024;
/** Seconds that iptables waits for its lock, as kube-proxy has it wait. */
const LOCK_SECONDS = '5';
/** Both kinds of iptables: what is set with the one is not seen with the other. */
const KINDS = ['legacy', 'nft'] as const;
type Kind = (typeof KINDS)[number];
const PROGRAMS = ['iptables', 'ip6tables'] as const;
const LEGACY_TABLES = ['/proc/net/ip_tables_names', '/proc/net/ip6_tables_names'];
const OP_REMOVE = 2;

/** Not there, or (as where PATH names a folder of somebody else's) not to be found by this user. */
function isMissing(error: Error | undefined): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === 'ENOENT' || code === 'EACCES';
}

/** What the tool printed; null: it is not installed. Throws TP_KERNEL_REFUSED with what it said. */
function run(tool: string, args: readonly string[], input = ''): string | null {
  const result = spawnSync(tool, args, {
    ...{ input, encoding: 'utf8', timeout: TOOL_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX },
  });
  if (isMissing(result.error)) return null;
  if (result.error || result.status !== 0) {
    const said = result.error?.message ?? result.stderr.trim().split('\n').at(-1) ?? '';
    throw new TriplaneError('TP_KERNEL_REFUSED', `${[tool, ...args.slice(0, 1)].join(' ')} failed: ${said}`);
  }
  return result.stdout;
}

async function cleanTables({ removed }: Lines): Promise<void> {
  const tables = await cleanupNft('', { ...NFT_SCHEME, table: TABLE, nextTable: TABLE });
  removed.push(...tables.map((table) => `nftables table ${table}`));
}

function cleanIptables(tool: string, { removed }: Lines): void {
  const { restore, chains, rules } = leftoversIn(run(`${tool}-save`, []) ?? '');
  if (restore === '') return;
  run(`${tool}-restore`, ['--noflush', '-w', LOCK_SECONDS], restore);
  removed.push(`${tool}: ${chains} chains and ${rules} rules`);
}

/** By their own names; where only the plain ones are installed, those, which are of one kind. */
function iptablesTools(): { readonly tools: readonly string[]; readonly kinds: ReadonlySet<Kind> } {
  const version = (tool: string) => spawnSync(`${tool}-save`, ['--version'], { encoding: 'utf8' });
  const kinds = KINDS.filter((kind) => !isMissing(version(`${PROGRAMS[0]}-${kind}`).error));
  const named = kinds.flatMap((kind) => PROGRAMS.map((program) => `${program}-${kind}`));
  if (named.length > 0) return { tools: named, kinds: new Set(kinds) };
  const { error, stdout } = version(PROGRAMS[0]);
  if (isMissing(error)) return { tools: [], kinds: new Set() };
  return { tools: PROGRAMS, kinds: new Set([stdout.includes('nf_tables') ? 'nft' : 'legacy']) };
}

/** Chains of kube-proxy's in the tables that iptables keeps in nftables. */
async function hasChainsInNft(): Promise<boolean> {
  const socket = openNftSocket('');
  try {
    for (const family of [4, 6] as const)
      for (const table of ['nat', 'filter', 'mangle'])
        if ((await socket.dumpNames(NFPROTO[family], table)).chains.some(isOwnChain)) return true;
    return false;
  } finally {
    socket.close();
  }
}

function hasLegacyTables(): boolean {
  return LEGACY_TABLES.some((file) => {
    try {
      return readFileSync(file, 'utf8').trim() !== '';
    } catch {
      return false;
    }
  });
}

async function cleanAllIptables(lines: Lines): Promise<void> {
  const { tools, kinds } = iptablesTools();
  for (const tool of tools) cleanIptables(tool, lines);
  if (!kinds.has('legacy') && hasLegacyTables())
    lines.left.push(
      'tables of the older iptables: iptables-legacy-save is not installed to see whether kube-proxy has chains there',
    );
  if (!kinds.has('nft') && (await hasChainsInNft()))
    throw new TriplaneError('TP_NO_LIBRARY', 'chains of kube-proxy stand, and iptables is not installed');
}

const plural = (count: number, what: string) => `${count} ${what}${count === 1 ? '' : 's'}`;

/** What still carries connections takes no new ones any more. */
function drain(server: IpvsServer, { left }: Lines): void {
  for (const { name, weight } of server.destinations)
    if (weight > 0) run('ipvsadm', ['-e', optionOf(server), server.name, '-r', name, '-m', '-w', '0']);
  const carried = plural(connectionsOf(server), 'connection');
  left.push(`IPVS service ${server.name}/${server.protocol}: it carries ${carried}, and takes no new ones`);
}

function optionOf({ protocol }: IpvsServer): string {
  return { tcp: '-t', udp: '-u', sctp: '--sctp-service' }[protocol];
}

/** Only where kube-proxy's device stands: virtual servers carry no owner. Those by packet mark are not kube-proxy's. */
function cleanIpvs(leaving: Leaving, { nodePorts }: OwnSets, lines: Lines): void {
  const link = readLinks('').find(({ name }) => name === KUBE_PROXY_LINK);
  if (!link) return;
  const listed = run('ipvsadm', ['-L', '-n']);
  if (listed === null) {
    const sentence = `${KUBE_PROXY_LINK} stands, and ipvsadm is not installed: without it IPVS services cannot be removed`;
    throw new TriplaneError('TP_NO_LIBRARY', sentence);
  }
  const bound = readAddresses('').filter(({ linkIndex }) => linkIndex === link.index);
  const onDevice = new Set<string>(bound.map(({ address }) => address));
  const own = serversIn(listed).filter(
    ({ address, protocol, port }) => onDevice.has(address) || nodePorts.has(`${protocol} ${port}`),
  );
  const staying = leaving === 'all' ? [] : own.filter((server) => connectionsOf(server) > 0);
  for (const server of staying) drain(server, lines);
  for (const server of own) {
    if (staying.includes(server)) continue;
    run('ipvsadm', ['-D', optionOf(server), server.name]);
    lines.removed.push(`IPVS service ${server.name}/${server.protocol}`);
  }
  // The addresses last: without their services they would lead to the node's own ports.
  if (staying.length === 0) {
    ipvsNative().ipvsUnlink('', KUBE_PROXY_LINK);
    lines.removed.push(`device ${KUBE_PROXY_LINK}`);
    return;
  }
  const needed = new Set(staying.map(({ address }) => address));
  for (const { address } of bound) {
    if (needed.has(address) || address.startsWith('fe80:')) continue;
    const bytes = addressBytes(address);
    ipvsNative().ipvsAddresses('', link.index, OP_REMOVE, bytes.length === 4 ? 4 : 16, Buffer.from(bytes));
    lines.removed.push(`address ${address} of ${KUBE_PROXY_LINK}`);
  }
  lines.left.push(
    `device ${KUBE_PROXY_LINK}: the services above need it; run this again when their connections have ended`,
  );
}

/** Sets that no rule names any more: after iptables. Those that tell whose IPVS services are stay while some do. */
function cleanIpsets({ names }: OwnSets, lines: Lines): void {
  const isLeft = lines.left.length > 0;
  const isNeeded = (name: string) => isLeft && /-NODE-PORT-(TCP|UDP|SCTP)/.test(name);
  for (const name of names) {
    if (isNeeded(name)) continue;
    try {
      run('ipset', ['destroy', name]);
      lines.removed.push(`ipset ${name}`);
    } catch (error) {
      // Somebody else's rule names it.
      lines.left.push(`ipset ${name}: ${(error as Error).message}`);
    }
  }
}

/** Every part is tried, also when another one fails. */
export async function cleanKubeProxy(leaving: Leaving): Promise<CleanedKubeProxy> {
  const lines: Lines = { removed: [], left: [] };
  const failures: unknown[] = [];
  const attempt = async (part: () => unknown) => {
    try {
      await part();
    } catch (error) {
      failures.push(error);
    }
  };
  let sets: OwnSets = { names: [], nodePorts: new Set() };
  await attempt(() => cleanTables(lines));
  await attempt(() => {
    sets = setsIn(run('ipset', ['save']) ?? '');
  });
  await attempt(() => cleanAllIptables(lines));
  await attempt(() => cleanIpvs(leaving, sets, lines));
  await attempt(() => cleanIpsets(sets, lines));
  return { ...lines, failures };
}
