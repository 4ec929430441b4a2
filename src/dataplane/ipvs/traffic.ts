/** Counting in the ipvs mode: the kernel does it anyway, for each virtual service and each of its destinations. */
import { PackedWriter } from '../nft/packed.ts';
import type { TrafficCell, TrafficReader, TrafficSettings } from '../traffic.ts';
import { poolOfMark } from './marks.ts';
import type { IpvsSocket } from './native.ts';
import { readServices, type ServiceName, type ServiceRow, writeServiceName } from './packed-ipvs.ts';
import { type Place, Tally } from './tally.ts';

/** The kernel sums up what its processors have counted every two seconds (ip_vs_est.c), and shows that sum alone. */
const KERNEL_SUMS_MS = 2000;
/** So long an emptied virtual service stays, for its last sum. */
const LAST_SUM_MS = KERNEL_SUMS_MS + 500;

/** What requests under way do to counters. */
export interface CountersTouched {
  /** Virtual services that are made, and the DesiredPort.name that each counts for. */
  readonly made: readonly {
    readonly name: ServiceName;
    readonly port: string;
    readonly destinations: readonly Place[];
  }[];
  /** Those that go. */
  readonly removed: readonly ServiceName[];
  /** Those that lose a destination, or get one: which begins at 0 or at what it had counted when it was there before. */
  readonly lost: readonly ServiceName[];
  readonly got: readonly ServiceName[];
}

/** Gives the rows of the virtual services asked for; null: of all of ours. */
export type ReadRows = (names: readonly ServiceName[] | null) => Promise<readonly ServiceRow[]>;

export class IpvsTraffic implements TrafficReader {
  readonly mode = 'ipvs';
  readonly #settings: TrafficSettings;
  readonly #rows: ReadRows;
  readonly #tally: Tally;
  #turn: Promise<unknown> = Promise.resolve();
  #begun = false;

  constructor(settings: TrafficSettings, rows: ReadRows) {
    this.#settings = settings;
    this.#rows = rows;
    this.#tally = new Tally(settings);
  }

  /** This, where it reads anything. */
  get reader(): TrafficReader | null {
    return this.#isOff ? null : this;
  }

  get #isOff(): boolean {
    return this.#settings.level === 'off';
  }

  /** How long a virtual service without destinations is to stay. */
  get lastSumMs(): number {
    return this.#isOff || this.#settings.by === 'endpoint' ? 0 : LAST_SUM_MS;
  }

  /** Before the first connection of ours: what is counted already is not. */
  async begin(): Promise<void> {
    if (this.#begun || this.#isOff) return;
    this.#begun = true;
    await this.#inTurn(() => this.#look(null));
  }

  /** A virtual service is there for this DesiredPort, or about to be. */
  own(name: ServiceName, port: string): void {
    if (!this.#isOff) this.#tally.own(name, port);
  }

  /** Sends requests, and looks at counters before they go and after they came back. */
  async around<T>(touched: CountersTouched, send: () => Promise<T>): Promise<T> {
    if (this.#isOff) return send();
    const byService = this.#settings.by === 'service';
    const before = byService ? touched.removed : touched.lost;
    const after = byService ? [] : touched.got;
    const work = async () => {
      await this.#try(before);
      for (const { name, port, destinations } of touched.made) this.#tally.made(name, port, destinations);
      const answer = await send();
      await this.#try(after);
      return answer;
    };
    // A reading under way is of what was there before: what it shows may not be taken for what is made now.
    const isAnew = touched.made.some(({ name }) => this.#tally.hasSeen(name));
    return before.length > 0 || after.length > 0 || isAnew ? this.#inTurn(work) : work();
  }

  read(): Promise<readonly TrafficCell[]> {
    return this.#inTurn(async () => {
      await this.#look(null);
      return this.#tally.cells();
    });
  }

  /** Traffic does not wait for its counters: what fails here fails, and is said, at the next reading. */
  async #try(names: readonly ServiceName[]): Promise<void> {
    if (names.length > 0) await this.#look(names).catch(() => {});
  }

  async #look(names: readonly ServiceName[] | null): Promise<void> {
    this.#tally.take(await this.#rows(names), names);
  }

  /** One at a time: an older reading that is taken after a newer one would look like counters that began anew. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#turn.then(work);
    this.#turn = next.catch(() => {});
    return next;
  }
}

/** Reads them from the kernel, each time by a socket of its own. */
export function rowsOf(open: () => IpvsSocket): ReadRows {
  return async (names) => {
    const socket = open();
    try {
      if (names === null)
        return readServices(await socket.dump()).filter(({ mark }) => poolOfMark(mark) !== 0);
      const out = new PackedWriter();
      for (const name of names) writeServiceName(out, name);
      return readServices(await socket.dump(Buffer.from(out.take())));
    } finally {
      socket.close();
    }
  };
}
