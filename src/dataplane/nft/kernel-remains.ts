/**
 * Connections that the kernel's own NAT translates and that no table of ours is needed for any more: they go on by
 * what connection tracking knows of them, as long as the keeper stands.
 */
import type { DesiredChange, DesiredService, DesiredState } from '../../model/desired.ts';
import { type Flow, listFlows } from '../../node/conntrack.ts';
import type { Carried, Mode, Remains } from '../dataplane.ts';
import type { TrafficReader } from '../traffic.ts';
import { Keeper, type KeptFrontend, keptKey } from './keeper.ts';
import type { NftTraffic } from './traffic.ts';

/** Whether the kernel delivers the flow elsewhere than it was sent: by NAT, or by IPVS, which sets no bit for it. */
function isTranslated({ original, reply, destinationTranslated }: Flow): boolean {
  return (
    destinationTranslated ||
    original.destination !== reply.source ||
    original.destinationPort !== reply.sourcePort
  );
}

/** The frontends that a set of services has. */
export function frontendsOf(services: Iterable<DesiredService>): KeptFrontend[] {
  const found: KeptFrontend[] = [];
  for (const { ports } of services) for (const { frontends } of ports) found.push(...frontends);
  return found;
}

export interface RemainsOptions {
  /** 'nat': IPVS is at work, and its connections are its own. */
  readonly share?: 'all' | 'nat';
  /** What counts them. */
  readonly counting?: NftTraffic;
}

export class KernelRemains implements Remains {
  readonly mode: Mode;
  readonly #netns: string;
  readonly #keeper: Keeper;
  /** Frontends that are or were ours: what the kernel translates for others is none of our business. */
  readonly #known: Set<string>;
  readonly #share: 'all' | 'nat';
  readonly #counting: NftTraffic | null;
  #looks = 0;

  private constructor(mode: Mode, netns: string, options: RemainsOptions, known: Iterable<string>) {
    this.mode = mode;
    this.#share = options.share ?? 'all';
    this.#counting = options.counting ?? null;
    this.#netns = netns;
    this.#keeper = new Keeper(netns);
    this.#known = new Set(known);
  }

  /** With what a keeper that stands already remembers of services that are gone. */
  static async of(
    mode: Mode,
    netns: string,
    state: DesiredState,
    options: RemainsOptions = {},
  ): Promise<KernelRemains> {
    const kept = await new Keeper(netns).frontends();
    const known = [...kept, ...frontendsOf(state.services.values())];
    return new KernelRemains(mode, netns, options, known.map(keptKey));
  }

  #counts(flow: Flow): boolean {
    return this.#share === 'nat' ? flow.destinationTranslated : isTranslated(flow);
  }

  async carried(): Promise<Carried> {
    const about = new Map<string, KeptFrontend>();
    let connections = 0;
    for await (const batch of listFlows({}, this.#netns)) {
      for (const flow of batch) {
        const { protocol, original } = flow;
        if (protocol !== 'TCP' && protocol !== 'UDP' && protocol !== 'SCTP') continue;
        const frontend = { address: original.destination, port: original.destinationPort, protocol } as const;
        const key = keptKey(frontend);
        if (!this.#known.has(key) || !this.#counts(flow)) continue;
        connections++;
        about.set(key, frontend);
      }
    }
    // No more come, so the first look sees them all, but for what was not confirmed yet.
    const first = this.#looks++ === 0;
    if (first && connections > 0) await this.#keeper.remember([...about.values()]);
    return { connections, ended: connections === 0 && !first };
  }

  async apply({ set }: DesiredChange): Promise<void> {
    for (const frontend of frontendsOf(set)) this.#known.add(keptKey(frontend));
  }

  traffic(): TrafficReader | null {
    return this.#counting?.reader ?? null;
  }

  async remove(): Promise<void> {
    if (this.traffic()) await this.#counting?.remove();
    await this.#keeper.remove();
  }

  async close(): Promise<void> {}
}
