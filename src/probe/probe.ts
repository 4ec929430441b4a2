/**
 * Tries what each mode needs against the running kernel: never by its version number, in a network namespace
 * that is gone afterwards. Without root, what cannot be tried is unknown and says so.
 */
import os from 'node:os';
import { probeEbpf } from './ebpf.ts';
import { probeFamily, probeIpvs } from './ipvs.ts';
import { probeNft } from './nft.ts';
import { autoOf, type ProbeReport, type ProbeRow } from './report.ts';
import { inThrowawayNamespace } from './throwaway.ts';

/** Each mode in a namespace of its own: none finds what another has left. */
async function rowsOf(): Promise<ProbeRow[]> {
  const rows: ProbeRow[] = [];
  for (const probe of [probeEbpf, probeNft, probeIpvs]) rows.push(...(await inThrowawayNamespace(probe)));
  return rows;
}

async function rowsWithoutPrivilege(): Promise<ProbeRow[]> {
  const unknown = { weight: 'required', answer: 'unknown', remedy: 'run as root to try it' } as const;
  const family = await probeFamily();
  return [
    ...(await probeEbpf('')),
    { mode: 'nft', need: 'a service of both families', ...unknown },
    family,
    ...(family.answer === 'no'
      ? []
      : [{ mode: 'ipvs', need: 'a service of both families, with its rules', ...unknown } as const]),
  ];
}

export async function probeKernel(): Promise<ProbeReport> {
  const rows = await rowsOf().catch(rowsWithoutPrivilege);
  return { kernel: `${os.release()} ${os.machine()}`, rows, auto: autoOf(rows) };
}
