/** Whether this kernel has an IPVS that we may use. `npm run test:kernels` boots one that has. */
import { spawnSync } from 'node:child_process';
import { openIpvsSocket } from '../../src/dataplane/ipvs/native.ts';
import { SERVICE_LINK } from '../../src/node/service-link.ts';
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

/** Addresses that are local by way of the device of services, sorted. @param netns path of the network namespace */
export function localByDevice(netns: string): string[] {
  const found = ['-4', '-6'].flatMap((family) => {
    const args = [
      `--net=${netns}`,
      'ip',
      family,
      '-o',
      'route',
      'show',
      'table',
      'local',
      'dev',
      SERVICE_LINK,
    ];
    const { stdout } = spawnSync('nsenter', args, { encoding: 'utf8' });
    return [...stdout.matchAll(/^local (\S+)/gm)].map(([, address = '']) => address);
  });
  return found.filter((address) => !address.startsWith('fe80:')).sort();
}
