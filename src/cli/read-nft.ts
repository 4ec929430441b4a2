/** What the commands do with the nft mode: read it back, and remove it. */

import type { ServiceView } from '../dataplane/dataplane.ts';
import { cleanupNft } from '../dataplane/nft/cleanup.ts';
import { KEEPER_TABLE, Keeper } from '../dataplane/nft/keeper.ts';
import { readNft } from '../dataplane/nft/readback.ts';
import type { Protocol } from '../model/records.ts';
import { type Flow, listFlows } from '../node/conntrack.ts';
import type { ConnectionView, KernelReader } from './machinery.ts';

const PROTOCOLS: readonly string[] = ['TCP', 'UDP', 'SCTP'] satisfies Protocol[];

export const NFT_READER: KernelReader = {
  async read() {
    const { present, services, endpoints } = await readNft();
    return present ? { services, endpoints } : null;
  },
  async connections() {
    return connectionsOf((await readNft()).services);
  },
};

/** Flows whose original destination is one of our frontends and that were translated. */
export async function connectionsOf(services: readonly ServiceView[]): Promise<ConnectionView[]> {
  const frontends = new Set(services.map(({ address, port, protocol }) => `${protocol} ${address} ${port}`));
  const found: ConnectionView[] = [];
  for await (const flows of listFlows()) {
    for (const flow of flows) {
      const { destination, destinationPort } = flow.original;
      if (!frontends.has(`${flow.protocol} ${destination} ${destinationPort}`)) continue;
      if (!isTranslated(flow)) continue;
      found.push(connectionOf(flow));
    }
  }
  return found;
}

/** IPVS changes only the tuple of the answers and sets no flag. */
function isTranslated({ destinationTranslated, original, reply }: Flow): boolean {
  return (
    destinationTranslated ||
    reply.source !== original.destination ||
    reply.sourcePort !== original.destinationPort
  );
}

function connectionOf(flow: Flow): ConnectionView {
  const { original, reply } = flow;
  const client = { address: original.source, port: original.sourcePort };
  const seen = { address: reply.destination, port: reply.destinationPort };
  return {
    protocol: (PROTOCOLS.includes(flow.protocol) ? flow.protocol : 'TCP') as Protocol,
    client,
    frontend: { address: original.destination, port: original.destinationPort },
    backend: { address: reply.source, port: reply.sourcePort },
    masqueradedAs: seen.address === client.address && seen.port === client.port ? null : seen,
    state: flow.protocol === 'UDP' ? '' : flow.state,
    expiresSeconds: flow.timeoutSeconds,
  };
}

export async function cleanNft(): Promise<readonly string[]> {
  const tables: string[] = await cleanupNft();
  if (await new Keeper('').remove()) tables.push(KEEPER_TABLE);
  return tables.map((table) => `nftables table ${table}`);
}
