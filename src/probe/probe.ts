/**
 * Tries what each mode needs against the running kernel: never by its version number, in a network namespace
 * that is gone afterwards. Without root, what cannot be tried is unknown and says so.
 */
import os from 'node:os';
import type { Mode } from '../dataplane/dataplane.ts';
import { probeEbpf, probeEbpfWithoutPlace } from './ebpf.ts';
import { probeIpvs, probeIpvsFamily } from './ipvs.ts';
import { probeNft, probeNftHere } from './nft.ts';
import { autoOf, canRun, PREFERENCE, type ProbeReport, type ProbeRow } from './report.ts';
import { inThrowawayNamespace, NoNamespace } from './throwaway.ts';
import { rowsOfUserNamespace } from './user-namespace.ts';

interface Prober {
  readonly inside: (netns: string) => Promise<ProbeRow[]>;
  /** What can be told without a network namespace of one's own. */
  readonly outside: (why: string) => Promise<ProbeRow[]>;
}

const unknown = (mode: Mode, need: string, why: string): ProbeRow => {
  return { mode, need, weight: 'required', answer: 'unknown', remedy: why };
};

async function probeNftAsSomebody(why: string): Promise<ProbeRow[]> {
  const rows = await rowsOfUserNamespace('nft');
  return rows ?? [await probeNftHere(), unknown('nft', 'a service of both families', why)];
}

const PROBERS: Readonly<Record<Mode, Prober>> = {
  ebpf: { inside: probeEbpf, outside: probeEbpfWithoutPlace },
  nft: { inside: probeNft, outside: probeNftAsSomebody },
  ipvs: {
    inside: probeIpvs,
    outside: async (why) => {
      const family = await probeIpvsFamily();
      if (family.answer !== 'yes') return [family];
      return [family, unknown('ipvs', 'a service of both families, with its rules', why)];
    },
  },
};

/** What a mode needs. Each mode has a namespace of its own: none finds what another has left. */
export async function probeMode(mode: Mode): Promise<ProbeRow[]> {
  const { inside, outside } = PROBERS[mode];
  try {
    return await inThrowawayNamespace(inside);
  } catch (error) {
    if (error instanceof NoNamespace) return outside(error.message);
    throw error;
  }
}

function reportOf(rows: readonly ProbeRow[]): ProbeReport {
  return { kernel: `${os.release()} ${os.machine()}`, rows, auto: autoOf(rows) };
}

/** All modes. */
export async function probeKernel(): Promise<ProbeReport> {
  const rows: ProbeRow[] = [];
  for (const mode of PREFERENCE) rows.push(...(await probeMode(mode)));
  return reportOf(rows);
}

/** One mode after the other until one can run, which is the one that `auto` takes. */
export async function probeForAuto(): Promise<ProbeReport> {
  const rows: ProbeRow[] = [];
  for (const mode of PREFERENCE) {
    rows.push(...(await probeMode(mode)));
    if (canRun(rows, mode)) break;
  }
  return reportOf(rows);
}
