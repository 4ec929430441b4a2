/** What the commands do with the ipvs mode: read it back, and remove it. */
import { cleanupIpvs } from '../dataplane/ipvs/cleanup.ts';
import { readIpvs } from '../dataplane/ipvs/readback.ts';
import type { KernelReader } from './machinery.ts';
import { connectionsOf } from './read-nft.ts';

export const IPVS_READER: KernelReader = {
  async read() {
    const { present, services, endpoints } = await readIpvs();
    return present ? { services, endpoints } : null;
  },
  async connections() {
    return connectionsOf((await readIpvs()).services);
  },
};

export async function cleanIpvs(): Promise<readonly string[]> {
  return cleanupIpvs();
}
