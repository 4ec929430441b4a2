/**
 * What kube-proxy left in the kernel, in any of its modes, and nothing else. The names are those of its own clean-up
 * (CleanupLeftovers of pkg/proxy/iptables, ipvs and nftables). What kubelet owns (KUBE-FIREWALL, KUBE-KUBELET-CANARY,
 * KUBE-MARK-DROP) stays. Rules of iptables belong to iptables: they are read and removed by its own programs.
 */
import { spawnSync } from 'node:child_process';
import { ipvsNative } from '../dataplane/ipvs/native.ts';
import { NFPROTO, openNftSocket } from '../dataplane/nft/native.ts';
import { NO_OWNER, OP, PackedWriter } from '../dataplane/nft/packed.ts';
import { TriplaneError } from '../model/errors.ts';
import { readLinks } from '../node/rtnetlink.ts';

const NFT_TABLE = 'kube-proxy';
const IPVS_DEVICE = 'kube-ipvs0';
const CHAINS: ReadonlySet<string> = new Set([
  ...['KUBE-SERVICES', 'KUBE-EXTERNAL-SERVICES', 'KUBE-NODEPORTS', 'KUBE-NODE-PORT', 'KUBE-POSTROUTING'],
  ...['KUBE-MARK-MASQ', 'KUBE-FORWARD', 'KUBE-PROXY-CANARY', 'KUBE-PROXY-FIREWALL', 'KUBE-LOAD-BALANCER'],
  ...['KUBE-SOURCE-RANGES-FIREWALL', 'KUBE-IPVS-FILTER', 'KUBE-IPVS-OUT-FILTER'],
]);
/** Chains of one service or endpoint. */
const OWN_CHAIN = /^KUBE-(SVC|SVL|SEP|FW|EXT|XLB)-[A-Z0-9]+$/;
const TIMEOUT_MS = 60_000;

const isOurs = (chain: string) => CHAINS.has(chain) || OWN_CHAIN.test(chain);

export interface IptablesPlan {
  /** For `iptables-restore --noflush`; '': there is nothing of kube-proxy. */
  readonly text: string;
  /** "nat KUBE-SERVICES" */
  readonly chains: readonly string[];
}

/** @param saved what iptables-save prints */
export function planIptables(saved: string): IptablesPlan {
  const out: string[] = [];
  const chains: string[] = [];
  for (const part of saved.split(/^(?=\*)/m)) {
    const table = /^\*(\S+)/.exec(part)?.[1];
    const own = [...part.matchAll(/^:(\S+) /gm)].map((match) => match[1]!).filter(isOurs);
    if (!table || own.length === 0) continue;
    const jumps = part.split('\n').filter((line) => {
      const chain = /^-A (\S+) /.exec(line)?.[1];
      const target = /\s-[jg] (\S+)/.exec(line)?.[1];
      return chain && target && !isOurs(chain) && isOurs(target);
    });
    out.push(
      `*${table}`,
      // A line of its own empties a chain.
      ...own.map((chain) => `:${chain} - [0:0]`),
      ...jumps.map((line) => line.replace(/^-A/, '-D')),
      ...own.map((chain) => `-X ${chain}`),
      'COMMIT',
    );
    chains.push(...own.map((chain) => `${table} ${chain}`));
  }
  return { text: out.length === 0 ? '' : `${out.join('\n')}\n`, chains };
}

/** null: there is no such program. Throws TP_KERNEL_REFUSED with what it said. */
function run(program: string, args: readonly string[], input = ''): string | null {
  const { error, status, stdout, stderr } = spawnSync(program, args, {
    ...{ input, encoding: 'utf8', timeout: TIMEOUT_MS, maxBuffer: 1 << 30 },
  });
  if ((error as NodeJS.ErrnoException | undefined)?.code === 'ENOENT') return null;
  if (status !== 0)
    throw new TriplaneError('TP_KERNEL_REFUSED', `${program} failed: ${stderr.trim().split('\n')[0]}`);
  return stdout;
}

function cleanIptables(): string[] {
  const removed: string[] = [];
  for (const ip of ['iptables', 'ip6tables'])
    for (const kind of ['legacy', 'nft']) {
      const { text, chains } = planIptables(run(`${ip}-${kind}-save`, []) ?? '');
      if (text === '') continue;
      run(`${ip}-${kind}-restore`, ['--noflush'], text);
      removed.push(...chains.map((chain) => `${ip}-${kind} ${chain}`));
    }
  return removed;
}

async function cleanNftables(): Promise<string[]> {
  const socket = openNftSocket('');
  const removed: string[] = [];
  try {
    for (const [name, family] of [
      ['ip', 4],
      ['ip6', 6],
    ] as const) {
      if ((await socket.dumpNames(NFPROTO[family], NFT_TABLE)).tableFlags < 0) continue;
      const out = new PackedWriter();
      out.u8(OP.delTable);
      out.u32(NO_OWNER);
      out.text(NFT_TABLE);
      const { errno, refused } = await socket.commit(NFPROTO[family], NFT_TABLE, [], out.take(), false);
      const why = errno || refused[0]?.errno;
      if (why) throw new TriplaneError('TP_KERNEL_REFUSED', `table ${name} ${NFT_TABLE} stays (${why})`);
      removed.push(`nftables table ${name} ${NFT_TABLE}`);
    }
    return removed;
  } finally {
    socket.close();
  }
}

/** Its device with all addresses; without them no packet comes to its virtual services of cluster IPs. */
function cleanIpvs(): string[] {
  if (!readLinks('').some(({ name }) => name === IPVS_DEVICE)) return [];
  const failed = ipvsNative().ipvsUnlink('', IPVS_DEVICE);
  if (failed !== '')
    throw new TriplaneError('TP_KERNEL_REFUSED', `the device ${IPVS_DEVICE} stays (${failed})`);
  const sets = (run('ipset', ['list', '-n']) ?? '').split('\n').filter((name) => /^KUBE-/.test(name));
  for (const name of sets) run('ipset', ['destroy', name]);
  return [`device ${IPVS_DEVICE}`, ...sets.map((name) => `ipset ${name}`)];
}

/** Says what was there, one line each. */
export async function cleanKubeProxy(): Promise<readonly string[]> {
  const rules = [...(await cleanNftables()), ...cleanIptables()];
  // Sets can go once no rule asks them.
  return [...rules, ...cleanIpvs()];
}
