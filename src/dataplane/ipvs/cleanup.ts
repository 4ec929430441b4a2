/** Removes all that the ipvs mode made; IPVS services of others stay, as do sysctls (others may rely on them). */
import { SERVICE_LINK } from '../../node/service-link.ts';
import { cleanupNft } from '../nft/cleanup.ts';
import { openNftSocket } from '../nft/native.ts';
import { PackedWriter } from '../nft/packed.ts';
import { poolOfMark } from './marks.ts';
import { type IpvsSocket, ipvsNative, openIpvsSocket } from './native.ts';
import { readServices, writeServiceRemoval } from './packed-ipvs.ts';
import { IPVS_SCHEME } from './scheme.ts';
import { ServiceDevice } from './service-device.ts';

/** null where there is no IPVS: then there is nothing of it to remove. */
function tryOpen(netns: string): IpvsSocket | null {
  try {
    return openIpvsSocket(netns);
  } catch {
    return null;
  }
}

async function removeServices(netns: string): Promise<string[]> {
  const socket = tryOpen(netns);
  if (!socket) return [];
  try {
    const own = readServices(await socket.dump()).filter(({ mark }) => poolOfMark(mark) !== 0);
    const out = new PackedWriter();
    for (const service of own) writeServiceRemoval(out, service);
    if (own.length > 0) await socket.commit(Buffer.from(out.take()));
    return own.map(({ family, mark }) => `IPVS service FWM ${mark} of IPv${family}`);
  } finally {
    socket.close();
  }
}

/** Addresses that stand as routes, where no device could be had; those that the table's set names. */
async function removeAddresses(netns: string): Promise<string[]> {
  if (ipvsNative().ipvsUnlink(netns, SERVICE_LINK) === '') return [`device ${SERVICE_LINK}`];
  const socket = openNftSocket(netns);
  try {
    const device = new ServiceDevice(netns, socket);
    return await device.removeRoutes();
  } finally {
    socket.close();
  }
}

/** Says what was there, one line each. */
export async function cleanupIpvs(netns = ''): Promise<string[]> {
  // Services first: addresses without them would lead to the node's own ports, which the table guards.
  const services = await removeServices(netns);
  const addresses = await removeAddresses(netns);
  const tables = await cleanupNft(netns, IPVS_SCHEME);
  return [...services, ...addresses, ...tables.map((table) => `nftables table ${table}`)];
}
