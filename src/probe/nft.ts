/** What the nft mode needs: its own rules and elements, tried as they are. */
import { TABLE } from '../dataplane/nft/layout.ts';
import { NFPROTO, openNftSocket } from '../dataplane/nft/native.ts';
import { NftDataplane } from '../dataplane/nft/nft-dataplane.ts';
import type { Feature } from '../node/switches.ts';
import type { ProbeRow } from './report.ts';
import { sampleState } from './sample.ts';
import { attempt, carry, type Need } from './trial.ts';

const AFFINITY_SECONDS = 60;

function need(text: string, weight: Need['weight'], remedy: string, ...features: Feature[]): Need {
  return { mode: 'nft', need: text, weight, remedy, features: ['nft', ...features] };
}

/** Whether this process may use nftables where it is: all that can be told without a place to try its rules. */
export function probeNftHere(): Promise<ProbeRow> {
  return attempt(need('nftables', 'required', 'load nf_tables'), async () => {
    const socket = openNftSocket('');
    try {
      await socket.dumpNames(NFPROTO[4], TABLE);
    } finally {
      socket.close();
    }
  });
}

export async function probeNft(netns: string): Promise<ProbeRow[]> {
  const open = () => new NftDataplane({ netns });
  const rules = await attempt(
    need(
      'nftables with NAT, fib and reject, and libnftables',
      'required',
      'install libnftables1; load nf_tables, nft_chain_nat, nft_masq, nft_fib and nft_reject',
    ),
    () => carry(open, { ...sampleState([4, 6], 0), services: new Map() }),
  );
  // Without the rules all else fails for the same reason.
  if (rules.answer !== 'yes') return [rules];
  return [
    rules,
    await attempt(
      need('a service of both families', 'required', 'load nft_numgen, nft_nat and nft_ct', 'numgen'),
      () => carry(open, sampleState([4, 6], 0)),
    ),
    await attempt(
      need('session affinity', 'better', 'load nft_ct; services with affinity are refused by name'),
      () => carry(open, sampleState([4, 6], AFFINITY_SECONDS)),
    ),
  ];
}
