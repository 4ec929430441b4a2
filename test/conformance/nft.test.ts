import { NftDataplane } from '../../src/dataplane/nft/nft-dataplane.ts';
import { mayChangeNetworks } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { testConformance } from './table.ts';

testConformance({
  mode: 'nft',
  gate: skipUnless(mayChangeNetworks(), 'needs root or an unprivileged user namespace'),
  open: (netns) => new NftDataplane({ netns }),
});
