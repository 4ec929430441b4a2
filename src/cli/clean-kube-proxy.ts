/**
 * Removes what kube-proxy left, in any of its modes (pkg/proxy/iptables, ipvs and nftables, each cleanup.go). Tables
 * and devices over netlink; iptables, ipset and IPVS through the tools that made them, where they are installed.
 */
import { spawnSync } from 'node:child_process';
import { ipvsNative } from '../dataplane/ipvs/native.ts';
import { cleanupNft } from '../dataplane/nft/cleanup.ts';
import { NFT_SCHEME } from '../dataplane/nft/scheme.ts';
import { TriplaneError } from '../model/errors.ts';
import { readLinks } from '../node/rtnetlink.ts';
import { leftoversIn } from './iptables-text.ts';

const TABLE = 'kube-proxy';
const DEVICE = 'kube-ipvs0';
const TOOL_MS_MAX = 60_000;
const OUTPUT_BYTES_MAX = 512 * 1024 * 1024;
/** Both kinds of iptables: what is set with the one is not seen with the other. */
const IPTABLES = ['iptables-legacy', 'iptables-nft', 'ip6tables-legacy', 'ip6tables-nft'] as const;
const PLAIN = ['iptables', 'ip6tables'] as const;

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

function cleanIptables(tool: string): string[] {
  const saved = run(`${tool}-save`, []);
  const { restore, chains, rules } = leftoversIn(saved ?? '');
  if (restore === '') return [];
  run(`${tool}-restore`, ['--noflush'], restore);
  return [`${tool}: ${chains} chains and ${rules} rules`];
}

function cleanAllIptables(): string[] {
  const variants = IPTABLES.filter((tool) => isInstalled(`${tool}-save`));
  const tools = variants.length > 0 ? variants : PLAIN.filter((tool) => isInstalled(`${tool}-save`));
  return tools.flatMap(cleanIptables);
}

function isInstalled(tool: string): boolean {
  return !isMissing(spawnSync(tool, ['--version'], { stdio: 'ignore' }).error);
}

/** Sets that no rule names any more: after iptables. */
function cleanIpsets(): string[] {
  const names = (run('ipset', ['list', '-n']) ?? '').split('\n').filter((name) => name.startsWith('KUBE-'));
  for (const name of names) run('ipset', ['destroy', name]);
  return names.map((name) => `ipset ${name}`);
}

/** Only where kube-proxy's device stands: virtual servers carry no owner. Those by packet mark are not kube-proxy's. */
function cleanIpvs(): string[] {
  if (!readLinks('').some(({ name }) => name === DEVICE)) return [];
  const saved = run('ipvsadm', ['-S', '-n']);
  if (saved === null) {
    const sentence = `${DEVICE} stands, and ipvsadm is not installed: without it IPVS services cannot be removed`;
    throw new TriplaneError('TP_NO_LIBRARY', sentence);
  }
  const removed = saved.split('\n').flatMap((line) => {
    const [, option, address] = /^-A (-t|-u|--sctp-service) (\S+)/.exec(line) ?? [];
    if (option === undefined) return [];
    run('ipvsadm', ['-D', option, address!]);
    return [`IPVS service ${address}`];
  });
  // The addresses last: without their services they would lead to the node's own ports.
  ipvsNative().ipvsUnlink('', DEVICE);
  return [...removed, `device ${DEVICE}`];
}

const PARTS: readonly (() => string[])[] = [cleanAllIptables, cleanIpvs, cleanIpsets];

/** Says what was there, one line each. Every part is tried, also when another one fails; then the first failure is thrown. */
export async function cleanKubeProxy(): Promise<readonly string[]> {
  const tables = await cleanupNft('', { ...NFT_SCHEME, table: TABLE, nextTable: TABLE });
  const lines = tables.map((table) => `nftables table ${table}`);
  const failures: unknown[] = [];
  for (const part of PARTS) {
    try {
      lines.push(...part());
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
  return lines;
}
