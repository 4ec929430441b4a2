/** Whether this kernel has an IPVS that we may use. `npm run test:kernels` boots one that has. */
import { openIpvsSocket } from '../../src/dataplane/ipvs/native.ts';
import { skipUnless } from './skip.ts';

export function hasIpvs(): boolean {
  try {
    openIpvsSocket('').close();
    return true;
  } catch {
    return false;
  }
}

export const ipvs = skipUnless(
  hasIpvs(),
  'needs a kernel with IPVS; npm run test:kernels boots one for these',
);
