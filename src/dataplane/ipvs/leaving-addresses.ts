/**
 * Addresses of no service any more that stay on the device, since connections may still arrive at them: until the
 * virtual services behind them are gone, connection tracking knows no open connection to them, or their time is over.
 */
import type { Address } from '../../model/records.ts';
import { listFlows } from '../../node/conntrack.ts';
import type { ServiceName } from './packed-ipvs.ts';

/** Each look walks the table of connection tracking: so many at a time, in turn. */
const LOOKS = 8;
/** Of TCP and of SCTP: nothing of these needs the address any more. */
const ENDED: ReadonlySet<string> = new Set(['TIME_WAIT', 'CLOSE', 'CLOSED', '']);

interface Leaving {
  readonly users: readonly ServiceName[];
  readonly until: number;
}

export class LeavingAddresses {
  readonly #netns: string;
  readonly #rows = new Map<Address, Leaving>();

  /** @param netns path of the network namespace; '': the current one */
  constructor(netns: string) {
    this.#netns = netns;
  }

  get size(): number {
    return this.#rows.size;
  }

  has(address: Address): boolean {
    return this.#rows.has(address);
  }

  all(): readonly Address[] {
    return [...this.#rows.keys()];
  }

  add(address: Address, leaving: Leaving): void {
    this.#rows.set(address, leaving);
  }

  /** They are a service's again, or gone. */
  forget(addresses: readonly Address[]): void {
    for (const address of addresses) this.#rows.delete(address);
  }

  /** Those whose virtual services are gone, or whose time is over. */
  released(isThere: (name: ServiceName) => boolean, now: number): Address[] {
    return [...this.#rows].flatMap(([address, { users, until }]) =>
      now >= until || !users.some(isThere) ? [address] : [],
    );
  }

  /** Of some of them: those to which no connection is open. Asks the kernel. */
  async idle(): Promise<Address[]> {
    const idle: Address[] = [];
    // Without a bound they drain for another mode, and datagram flows of theirs go on.
    const bounded = [...this.#rows].filter(([, { until }]) => Number.isFinite(until));
    for (const [address, leaving] of bounded.slice(0, LOOKS)) {
      if (!(await this.#isOpen(address))) idle.push(address);
      // To the end of the queue.
      if (this.#rows.delete(address)) this.#rows.set(address, leaving);
    }
    return idle;
  }

  async #isOpen(address: Address): Promise<boolean> {
    for (const protocol of ['TCP', 'SCTP'] as const)
      for await (const flows of listFlows({ protocol, destination: { address, port: 0 } }, this.#netns))
        if (flows.some(({ state }) => !ENDED.has(state))) return true;
    return false;
  }
}
