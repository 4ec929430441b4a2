/** What an agent finds in the kernel at its start that another mode, or another proxy, has made and still carries. */
import { existsSync } from 'node:fs';
import { isSwitchable, type Mode, type Switchable } from '../dataplane/dataplane.ts';
import { cleanupEbpf } from '../dataplane/ebpf/cleanup.ts';
import { EbpfDataplane } from '../dataplane/ebpf/ebpf-dataplane.ts';
import { findRoots, generationMeta } from '../dataplane/ebpf/kernel.ts';
import { servesHere } from '../dataplane/ebpf/meta.ts';
import { Generation, generations } from '../dataplane/ebpf/pins.ts';
import { IPVS_SCHEME } from '../dataplane/ipvs/scheme.ts';
import { KernelRemains } from '../dataplane/nft/kernel-remains.ts';
import { NftDataplane } from '../dataplane/nft/nft-dataplane.ts';
import { areTablesThere, isNftThere } from '../dataplane/nft/presence.ts';
import type { DesiredState } from '../model/desired.ts';
import type { DataplaneOptions } from './modes.ts';
import { ebpfOptions, openDataplane } from './modes.ts';
import type { Log } from './status.ts';

export interface PredecessorOptions {
  readonly config: DataplaneOptions['config'];
  readonly log: Log;
}

/** What says that a mode was never here, by its `code`: the kernel lacks it, or it may not be used. */
const NEVER_HERE: ReadonlySet<unknown> = new Set([
  ...['TP_NO_FEATURE', 'TP_NO_PRIVILEGE', 'EPERM', 'EACCES', 'ENOSYS'],
  ...['EPROTONOSUPPORT', 'EAFNOSUPPORT', 'EOPNOTSUPP'],
]);

/**
 * Of other modes than `mode`, opened. A mode that this kernel does not have has left nothing. Any other failure is thrown,
 * for the start to be tried again: taken for nothing, it would cost every connection that is there.
 */
export async function predecessorsOf(
  mode: Mode,
  state: DesiredState,
  { config, log }: PredecessorOptions,
): Promise<Switchable[]> {
  const found: Switchable[] = [];
  for (const look of [
    () => ebpfPredecessors(mode, state, config),
    () => (mode === 'ipvs' ? [] : ipvsPredecessors(config)),
    () => (mode === 'nft' ? [] : kernelPredecessors(mode, state)),
  ]) {
    try {
      found.push(...(await look()));
    } catch (error) {
      if (!NEVER_HERE.has((error as { code?: unknown }).code)) {
        for (const one of found) await one.close();
        throw error;
      }
      log.debug({ err: error }, 'what other modes may have left cannot be there');
    }
  }
  for (const one of found)
    log.info({ mode: one.mode }, 'the kernel still has what another mode, or another proxy, has carried');
  return found;
}

async function ebpfPredecessors(
  mode: Mode,
  state: DesiredState,
  config: DataplaneOptions['config'],
): Promise<Switchable[]> {
  if (mode !== 'ebpf') removeUnfinished(config.bpfRoot);
  const found: Switchable[] = [];
  for (const root of findRoots()) {
    if (mode === 'ebpf' && root === config.bpfRoot) continue;
    const newest = generations(root).at(-1);
    const meta = newest === undefined ? null : generationMeta(new Generation(root, newest));
    if (!meta) continue;
    const { sizes, natPorts } = meta;
    const old = new EbpfDataplane({ ...ebpfOptions(config), root, sizes, natPorts });
    await old.prepare(state);
    found.push(old);
  }
  return found;
}

/** Maps of an agent that ended before they took a connection. */
function removeUnfinished(root: string): void {
  if (!existsSync(root)) return;
  const metas = generations(root).map((number) => generationMeta(new Generation(root, number)));
  const unfinished = metas.length > 0 && metas.every((meta) => meta?.complete === false);
  if (unfinished && metas.every((meta) => meta !== null && servesHere(meta))) cleanupEbpf(root);
}

async function ipvsPredecessors(config: DataplaneOptions['config']): Promise<Switchable[]> {
  if (!(await areTablesThere('', IPVS_SCHEME))) return [];
  const old = openDataplane('ipvs', { config, onForeignChange: () => {} });
  return isSwitchable(old) ? [old] : [];
}

/** Tables of ours, or connections to our frontends that somebody's NAT or IPVS has made: those of kube-proxy, say. */
async function kernelPredecessors(mode: Mode, state: DesiredState): Promise<Switchable[]> {
  const isThere = (await isNftThere()) || (mode === 'ebpf' && (await kernelCarries(state)));
  return isThere ? [new NftDataplane()] : [];
}

async function kernelCarries(state: DesiredState): Promise<boolean> {
  const remains = await KernelRemains.of('nft', '', state);
  return (await remains.carried()).connections > 0;
}
