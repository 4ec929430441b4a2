/** `triplane cleanup` */
import { Command } from 'commander';
import type { Mode } from '../dataplane/dataplane.ts';
import { TriplaneError } from '../model/errors.ts';
import { escapeText } from '../observe/escape.ts';
import type { CleanedKubeProxy } from './clean-kube-proxy.ts';
import { failureOf } from './failure.ts';
import type { Io } from './io.ts';
import { type Cleaner, MACHINERY, type Machinery, need } from './machinery.ts';

const NOTHING = 'there was nothing to remove\n';

export function cleanupCommand(io: Io, machinery: Machinery = MACHINERY): Command {
  return new Command('cleanup')
    .description('remove everything triplane made in this network namespace; nothing to remove is no error')
    .option('--kube-proxy', 'remove what kube-proxy left instead, in any of its modes, and nothing else')
    .option('--now', 'with --kube-proxy: also the part of its ipvs mode that still carries connections')
    .action(async ({ kubeProxy, now }: { kubeProxy?: true; now?: true }) => {
      if (now && !kubeProxy) throw new TriplaneError('TP_BAD_FLAG', '--now goes with --kube-proxy');
      if (kubeProxy) {
        const clean = await need(machinery.cleanKubeProxy, 'cleaner for what kube-proxy leaves');
        await cleanupKubeProxy(io, await clean(now ? 'all' : 'ended'));
      } else {
        await cleanup(io, machinery);
      }
    });
}

async function cleanupKubeProxy(io: Io, { removed, left, failures }: CleanedKubeProxy): Promise<void> {
  for (const line of removed) io.out(`kube-proxy: removed ${escapeText(line)}\n`);
  for (const line of left) io.out(`kube-proxy: left ${escapeText(line)}\n`);
  throwAny(io, failures);
  if (removed.length + left.length === 0) io.out(NOTHING);
}

/** Modes that fail for one reason say it once: the first failure is said by whoever catches it. */
function throwAny(io: Io, failures: readonly unknown[]): void {
  if (failures.length === 0) return;
  const lines = new Set(failures.map((error) => failureOf(error).line));
  for (const line of [...lines].slice(1)) io.err(`${line}\n`);
  throw failures[0];
}

/** Every mode is cleaned, also when another one fails; the failures come last, as one error. */
export async function cleanup(io: Io, machinery: Machinery): Promise<void> {
  const cleaners: [string, Cleaner][] = [];
  for (const mode of ['nft', 'ipvs', 'ebpf'] satisfies Mode[]) {
    const load = machinery.cleaners[mode];
    if (load !== null) cleaners.push([mode, await load()]);
  }
  if (cleaners.length === 0)
    throw new TriplaneError('TP_NO_FEATURE', 'this build has no dataplane to clean up');
  await cleanAll(io, cleaners);
}

async function cleanAll(io: Io, cleaners: readonly (readonly [string, Cleaner])[]): Promise<void> {
  let removed = 0;
  const failures: unknown[] = [];
  for (const [name, clean] of cleaners) {
    try {
      for (const line of await clean()) {
        removed++;
        io.out(`${name}: removed ${escapeText(line)}\n`);
      }
    } catch (error) {
      failures.push(error);
    }
  }
  throwAny(io, failures);
  if (removed === 0) io.out(NOTHING);
}
