/** The ipvs mode under the fuzzer: in a kernel that has IPVS, which scripts/fuzz.mjs boots where this one has not. */
import type { Dataplane } from '../../../src/dataplane/dataplane.ts';
import { cleanupIpvs } from '../../../src/dataplane/ipvs/cleanup.ts';
import { IpvsDataplane } from '../../../src/dataplane/ipvs/ipvs-dataplane.ts';
import { openIpvsSocket } from '../../../src/dataplane/ipvs/native.ts';
import { readServices } from '../../../src/dataplane/ipvs/packed-ipvs.ts';
import { readIpvs } from '../../../src/dataplane/ipvs/readback.ts';
import type { DesiredState } from '../../../src/model/desired.ts';
import { FlowWorld, NODE } from '../../support/flow-world.ts';
import { localByDevice } from '../../support/ipvs.ts';
import { bareNamespaces } from '../../support/namespaces.ts';
import { SLOWNESS } from '../../support/slowness.ts';
import type { PlannedFlow } from './flows.ts';
import { NamespaceSubject, type Subject } from './subjects.ts';

/** What leaves goes with its connections, or after this. */
const GRACE_MS = 500;
const NODES_OWN: readonly string[] = NODE;

export class IpvsSubject extends NamespaceSubject {
  readonly mode = 'ipvs';
  /** Nor does kube-proxy: IPVS takes what comes from a backend for an answer, whoever asked. */
  override readonly twins = false;
  protected override readonly settleMs = 3000 * SLOWNESS;
  /** Addresses that services have or had: the node's own until their connections have ended (docs/ipvs.md). */
  readonly #own = new Set<string>();

  protected readonly cleanup = cleanupIpvs;
  protected readonly image = image;

  static async create(): Promise<IpvsSubject> {
    return new IpvsSubject(await FlowWorld.create('none'), await bareNamespaces(1));
  }

  protected openIn(netns: string): Dataplane {
    return new IpvsDataplane({ netns, graceMs: GRACE_MS });
  }

  /** Where nft mode lets a packet pass on to an address that a service has, this node refuses it. */
  override accepts({ packet, verdict }: PlannedFlow): readonly string[] {
    return verdict.action === 'pass' && this.#own.has(packet.destination) ? ['refused'] : [];
  }

  #remember(state: DesiredState): void {
    for (const { ports } of state.services.values())
      for (const { address, kind } of ports.flatMap(({ frontends }) => frontends))
        if (kind !== 'NodePort') this.#own.add(address);
  }

  /** Routes to service addresses go with the address that they name as the node's own; the agent then compares. */
  override async followAddresses(state: DesiredState): Promise<void> {
    await this.dataplane!.verify(state);
  }

  override start(state: DesiredState): Promise<string[]> {
    this.#own.clear();
    this.#remember(state);
    return super.start(state);
  }

  override apply(...args: Parameters<Subject['apply']>): Promise<string[]> {
    this.#remember(args[1]);
    return super.apply(...args);
  }
}

/** Without marks, pool numbers and what was counted, which are of a history. */
async function image(netns: string): Promise<unknown> {
  const { services, endpoints } = await readIpvs(netns);
  const socket = openIpvsSocket(netns);
  try {
    const virtual = readServices(await socket.dump()).map(
      ({ mark: _mark, counts: _counts, destinations, ...rest }) => {
        const to = destinations.map(({ address, port, weight }) => `${address} ${port} weight ${weight}`);
        return { ...rest, destinations: to.sort() };
      },
    );
    const rows = (list: readonly unknown[]) => list.map((one) => JSON.stringify(one)).sort();
    return {
      services: rows(services),
      endpoints: rows(endpoints),
      virtual: rows(virtual),
      addresses: addresses(netns),
    };
  } finally {
    socket.close();
  }
}

function addresses(netns: string): string[] {
  // The node has its own anyhow, which the namespace of the fresh start has not.
  return localByDevice(netns).filter((one) => !NODES_OWN.includes(one));
}
