/** What the ipvs mode needs. */
import { requireFeatures } from '../node/switches.ts';
import { probeNative } from './native.ts';
import type { ProbeRow } from './report.ts';
import { attempt, type Need } from './trial.ts';

function need(text: string, weight: Need['weight'], remedy: string): Need {
  return { mode: 'ipvs', need: text, weight, remedy, features: ['ipvs', 'nft'] };
}

/** Needs no privilege: every process may ask for the netlink family. */
export function probeIpvsFamily(): Promise<ProbeRow> {
  return attempt(
    need('IPVS over generic netlink', 'required', 'modprobe ip_vs, or a kernel that has it'),
    () => {
      try {
        probeNative().genlFamily('', 'IPVS');
      } catch (error) {
        if ((error as { code?: string }).code !== 'ENOENT') throw error;
        throw new Error('there is no such netlink family', { cause: error });
      }
    },
  );
}

export async function probeIpvs(_netns: string): Promise<ProbeRow[]> {
  const family = await probeIpvsFamily();
  if (family.answer === 'no') return [family];
  return [
    family,
    await attempt(need('the ipvs mode', 'required', 'another version of triplane'), () => {
      requireFeatures(['ipvs', 'nft']);
      throw new Error('this version has none');
    }),
  ];
}
