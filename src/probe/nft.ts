/** What the nft mode needs: its own rules and elements, tried as they are. */
import { NftDataplane } from '../dataplane/nft/nft-dataplane.ts';
import type { ProbeRow } from './report.ts';
import { sampleState } from './sample.ts';
import { attempt, carry, type Need } from './trial.ts';

const AFFINITY_SECONDS = 60;

function need(text: string, weight: Need['weight'], remedy: string): Need {
  return { mode: 'nft', need: text, weight, remedy };
}

const MODULES = 'a kernel with nf_tables, nft_nat, nft_masq, nft_fib, nft_numgen and nft_reject';

export async function probeNft(netns: string): Promise<ProbeRow[]> {
  const open = () => new NftDataplane({ netns });
  return [
    await attempt(
      need('nftables and libnftables', 'required', 'install libnftables1 and load nf_tables'),
      () => carry(open, { ...sampleState([4, 6], 0), services: new Map() }),
    ),
    await attempt(need('a service of both families', 'required', MODULES), () =>
      carry(open, sampleState([4, 6], 0)),
    ),
    await attempt(need('session affinity', 'better', MODULES), () =>
      carry(open, sampleState([4, 6], AFFINITY_SECONDS)),
    ),
  ];
}
