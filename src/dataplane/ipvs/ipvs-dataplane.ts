/** The ipvs mode: IPVS carries the traffic, and a table of nftables does what it cannot. See docs/ipvs.md. */
import type { DesiredChange, DesiredState } from '../../model/desired.ts';
import type { Address, Family } from '../../model/records.ts';
import { PacedTask } from '../../node/paced-task.ts';
import type {
  AffinityView,
  ApplyResult,
  Carried,
  Degree,
  Refusal,
  Remains,
  Switchable,
  VerifyResult,
} from '../dataplane.ts';
import type { Companion, FamilyResult } from '../nft/family-kernel.ts';
import type { OwnerState, Segment } from '../nft/family-table.ts';
import { type NftSocket, openNftSocket } from '../nft/native.ts';
import { NftDataplane } from '../nft/nft-dataplane.ts';
import { NO_TRAFFIC, type TrafficReader } from '../traffic.ts';
import { affinitiesOf, readTemplates } from './affinities.ts';
import { LeavingAddresses } from './leaving-addresses.ts';
import { type IpvsSocket, openIpvsSocket } from './native.ts';
import { addressesOf, keyOf, nameOf, nothingOf, portsOf, wantedBy } from './owners.ts';
import type { ServiceName } from './packed-ipvs.ts';
import { IpvsRemains, type Lingering } from './remains.ts';
import { schedulingOf } from './scheduling.ts';
import { IPVS_SCHEME } from './scheme.ts';
import { type DeviceProblem, ServiceDevice } from './service-device.ts';
import { applyIpvsSettings, type IpvsOptions, type IpvsSettings } from './settings.ts';
import { IpvsTraffic, rowsOf } from './traffic.ts';
import { type CommitResult, VirtualServices, type WantedPool } from './virtual-services.ts';

const DEFAULT_SCHEDULER = 'rr';
const GRACE_MS = 15 * 60_000;
/** A sweep reads all of IPVS. */
const SWEEP_TIMES = { rests: 20, delayMs: 1000 };

export class IpvsDataplane implements Switchable, Companion, Lingering {
  readonly mode = 'ipvs';
  private options: IpvsOptions;
  private readonly socket: IpvsSocket;
  private readonly nftSocket: NftSocket;
  private readonly table: NftDataplane;
  private readonly services: VirtualServices;
  private readonly device: ServiceDevice;
  /** How many services' frontends have an address. */
  private uses = new Map<Address, number>();
  private readonly leaving: LeavingAddresses;
  private readonly counting: IpvsTraffic;
  private readonly refusedSchedulers = new Set<string>();
  private readonly sweeping = new PacedTask(
    // What fails is found by the next verify().
    () => this.sweep().catch(() => {}),
    SWEEP_TIMES,
    (work) => this.inTurn(work),
  );
  private turn: Promise<unknown> = Promise.resolve();
  private closed = false;
  private phase: 'bringing' | 'retiring' | 'carrying' = 'carrying';

  constructor(options: IpvsOptions = {}) {
    this.options = options;
    const netns = options.netns ?? '';
    this.socket = openIpvsSocket(netns);
    this.nftSocket = openNftSocket(netns);
    const { onForeignChange, traffic = NO_TRAFFIC } = options;
    this.counting = new IpvsTraffic(
      traffic,
      rowsOf(() => openIpvsSocket(netns)),
    );
    this.services = new VirtualServices(this.socket, options.graceMs ?? GRACE_MS, this.counting);
    this.leaving = new LeavingAddresses(netns);
    this.device = new ServiceDevice(netns, this.nftSocket, options.deviceKinds);
    if (onForeignChange) this.device.watch(onForeignChange);
    this.table = new NftDataplane({
      netns,
      scheme: IPVS_SCHEME,
      companion: this,
      ...(onForeignChange ? { onForeignChange } : {}),
    });
  }

  /** Other settings, for the next start(). False: they are what they were. */
  configure(settings: IpvsSettings): boolean {
    const names = Object.keys(settings) as (keyof IpvsSettings)[];
    if (names.every((name) => this.options[name] === settings[name])) return false;
    this.options = { ...this.options, ...settings };
    // A module may have come since.
    this.refusedSchedulers.clear();
    return true;
  }

  degrees(): Degree[] {
    const { carrier } = this.device;
    if (carrier === '') return [];
    const reason = carrier === 'dummy' ? '' : 'there is no dummy device';
    return [{ feature: 'service_device', device: '', got: carrier, reason }];
  }

  warm(): void {
    this.table.warm();
  }

  start(state: DesiredState): Promise<ApplyResult> {
    return this.inTurn(() => {
      this.services.graceMs = this.options.graceMs ?? GRACE_MS;
      return this.bring(state, 'bringing');
    });
  }

  /** As the tables of the nft mode: complete before it takes the first connection, and unable to hold back. */
  prepare(state: DesiredState): Promise<ApplyResult> {
    return this.start(state);
  }

  traffic(): TrafficReader | null {
    return this.counting.reader;
  }

  lead(): void {}

  async alone(): Promise<void> {}

  async introduce(): Promise<void> {}

  /** Works without start(), too. */
  async affinities(): Promise<readonly AffinityView[]> {
    if ((this.options.netns ?? '') !== '') return [];
    return affinitiesOf(await readTemplates(), this.table.tables());
  }

  /** The kernel alone makes templates: what others remembered is lost where the client comes anew. */
  async learnAffinities(): Promise<void> {}

  /**
   * Works without start(), too. The table stays and leads nothing new; virtual services keep their connections, and the
   * device the addresses at which those arrive.
   */
  async retire(state: DesiredState): Promise<Remains> {
    await this.inTurn(() => {
      this.services.graceMs = Number.POSITIVE_INFINITY;
      this.datagrams = new Set(
        this.wantedPools().flatMap((pool) => (pool.protocol === 'UDP' ? [keyOf(nameOf(pool))] : [])),
      );
      return this.bring(nothingOf(state), 'retiring');
    });
    return new IpvsRemains(this, this.options.netns ?? '', state);
  }
  /** Virtual services of datagrams, when it retired. */
  private datagrams: ReadonlySet<string> = new Set();

  linger(isServing: (backend: string) => boolean): Promise<Carried> {
    return this.inTurn(async () => {
      await this.services.drop((name, backend) => this.datagrams.has(keyOf(name)) && !isServing(backend));
      await this.services.sweep(() => false, Date.now());
      await this.releaseAddresses();
      return { connections: this.services.connections, ended: !this.services.isAny() };
    });
  }

  private async bring(state: DesiredState, phase: 'bringing' | 'retiring'): Promise<ApplyResult> {
    const refusals: Refusal[] = applyIpvsSettings(this.socket, this.options).map((reason) => ({
      service: '',
      reason,
    }));
    await this.services.read();
    await this.counting.begin();
    this.phase = phase;
    const table = await this.table.start(state).finally(() => {
      this.phase = 'carrying';
    });
    const added = await this.meetDevice();
    refusals.push(...table.refusals, ...added.problems.map(({ reason }) => ({ service: '', reason })));
    const settled = await this.settle();
    return { operations: table.operations + added.operations + settled, refusals };
  }

  /** Brings the device up to the table: what is bound and needed no more stays guarded until it goes. */
  private async meetDevice(): Promise<{ operations: number; problems: readonly DeviceProblem[] }> {
    await this.device.read();
    this.recount();
    return this.device.add([...this.uses.keys(), ...this.device.addresses()]);
  }

  /** Takes away what no pool and no frontend needs. */
  private async settle(): Promise<number> {
    const wanted = this.wantedPools();
    const isWanted = wantedBy(wanted);
    const now = Date.now();
    const pools = wanted.map((pool) => ({ name: nameOf(pool), wanted: pool, protocol: pool.protocol }));
    const gone = this.services.unwanted(isWanted);
    const all = [...pools, ...gone.map((name) => ({ name, wanted: null, protocol: 'TCP' as const }))];
    const { operations } = await this.services.withdraw(all, now);
    for (const address of this.device.addresses())
      if (!this.uses.has(address) && !this.leaving.has(address)) this.leave(address, gone);
    const released = await this.releaseAddresses();
    this.sweepSoon();
    return operations + released;
  }

  private wantedPools(): WantedPool[] {
    return this.table
      .tables()
      .flatMap(({ family, table }) =>
        Array.from(table.states()).flatMap(([owner, state]) => this.poolsOf(family, owner, state, () => {})),
      );
  }

  private poolsOf(
    family: Family,
    owner: string,
    state: OwnerState | undefined,
    refuse: (reason: string) => void,
  ): WantedPool[] {
    return portsOf(state).flatMap(({ port, cluster, local }) => {
      const base = this.options.scheduler ?? DEFAULT_SCHEDULER;
      const wanted = schedulingOf(port, base, refuse);
      if (this.refusedSchedulers.has(wanted.scheduler))
        refuse(
          `this kernel has no IPVS scheduler ${wanted.scheduler}; ${this.usable(wanted.scheduler)} stays`,
        );
      const { protocol } = port;
      const scheduling = { ...wanted, scheduler: this.usable(wanted.scheduler) };
      const own = { family, protocol, scheduling, owner, port: port.name };
      return [cluster, local].flatMap((pool) =>
        pool ? [{ ...own, number: pool.number, backends: pool.slots }] : [],
      );
    });
  }

  private usable(scheduler: string): string {
    return this.refusedSchedulers.has(scheduler) ? DEFAULT_SCHEDULER : scheduler;
  }

  lastPool(family: Family): number {
    return this.services.lastPool(family);
  }

  /** Companion of the table: virtual services are there before an element leads to them. */
  async before(family: Family, segments: readonly Segment[], result: FamilyResult): Promise<void> {
    const refuse = (service: string, reason: string) => {
      if (!result.refusals.some((one) => one.service === service && one.reason === reason))
        result.refusals.push({ service, reason, served: 'otherwise' });
    };
    const provide = async () => {
      const pools = segments.flatMap(({ owner, after }) =>
        this.poolsOf(family, owner, after, (reason) => refuse(owner, reason)),
      );
      const answer = await this.services.provide(pools);
      result.operations += answer.operations;
      return this.refuse(answer, result);
    };
    // A scheduler that this kernel does not have took its services with it: once more without.
    if (await provide()) await provide();
  }

  /** Notes refusals; true when a scheduler was among them, which the services' next look is told by name. */
  private refuse(answer: CommitResult, result: FamilyResult): boolean {
    let scheduler = false;
    for (const { owner, what, errno } of answer.refused) {
      const [kind, name] = what.split(' ');
      if (kind === 'scheduler' && errno === 'ENOENT' && name !== DEFAULT_SCHEDULER) {
        this.refusedSchedulers.add(name!);
        scheduler = true;
        continue;
      }
      // Its service was refused: what is to be said was said of that.
      if (kind !== 'scheduler' && errno === 'ESRCH') continue;
      result.refusals.push({ service: owner, reason: `the kernel refused its IPVS ${what} (${errno})` });
    }
    return scheduler;
  }

  /** Companion of the table: what no element leads to any more goes. */
  async after(family: Family, segments: readonly Segment[], result: FamilyResult): Promise<void> {
    // They keep what they have, and settle() sees to it that they get nothing new.
    if (this.phase === 'retiring') return;
    const now = Date.now();
    const bind: Address[] = [];
    for (const { owner, before, after } of segments) {
      const next = this.poolsOf(family, owner, after, () => {});
      const kept = new Set(next.map((pool) => pool.number));
      const old = this.poolsOf(family, owner, before, () => {}).filter((pool) => !kept.has(pool.number));
      const all = [
        ...next.map((pool) => ({ name: nameOf(pool), wanted: pool, protocol: pool.protocol })),
        ...old.map((pool) => ({ name: nameOf(pool), wanted: null, protocol: pool.protocol })),
      ];
      result.operations += (await this.services.withdraw(all, now)).operations;
      bind.push(...this.countAddresses(before, after, [...next, ...old].map(nameOf)));
    }
    // While the table is made, so is the device: bring() meets it when the table is complete.
    if (this.phase === 'bringing') return;
    const { operations, problems } = await this.device.add(bind);
    result.operations += operations + (await this.releaseAddresses());
    result.refusals.push(...problems.map(({ reason }) => ({ service: '', reason })));
    this.sweepSoon();
  }

  /** Follows one owner's addresses; returns those that are used now. */
  private countAddresses(
    before: OwnerState | undefined,
    after: OwnerState | undefined,
    users: readonly ServiceName[],
  ): Address[] {
    const next = addressesOf(after);
    for (const address of next) {
      this.uses.set(address, (this.uses.get(address) ?? 0) + 1);
    }
    this.leaving.forget([...next]);
    for (const address of addressesOf(before)) {
      const left = (this.uses.get(address) ?? 1) - 1;
      if (left > 0) this.uses.set(address, left);
      else {
        this.uses.delete(address);
        this.leave(address, users);
      }
    }
    return [...next];
  }

  private leave(address: Address, users: readonly ServiceName[]): void {
    this.leaving.add(address, { users, until: Date.now() + this.services.graceMs });
  }

  private recount(): void {
    this.uses = new Map();
    this.leaving.forget(this.leaving.all());
    for (const { table } of this.table.tables())
      for (const [, state] of table.states()) this.countAddresses(undefined, state, []);
  }

  /** Unbinds addresses of no service at which nothing of IPVS can have connections any more. */
  private releaseAddresses(): Promise<number> {
    return this.unbind(this.leaving.released((name) => this.services.has(name), Date.now()));
  }

  private unbind(addresses: readonly Address[]): Promise<number> {
    this.leaving.forget(addresses);
    return this.device.remove(addresses);
  }

  apply(change: DesiredChange, state: DesiredState): Promise<ApplyResult> {
    return this.inTurn(async () => {
      const known = this.table.tables();
      const result = await this.table.apply(change, state);
      // The table was made anew (another detector): so is what hangs on it.
      const anew = this.table.tables() !== known;
      if (anew) await this.meetDevice();
      // Elements that were refused leave pools behind to which nothing leads.
      if (anew || result.refusals.length > 0) await this.settle();
      return result;
    });
  }

  verify(state: DesiredState): Promise<VerifyResult> {
    return this.inTurn(async () => {
      const table = await this.table.verify(state);
      const changed = await this.services.read();
      await this.device.read();
      const wanted = new Set([...this.uses.keys(), ...this.leaving.all()]);
      const repaired = [...table.repaired, ...changed, ...this.device.differences(wanted)];
      if (repaired.length > 0) await this.bring(state, 'bringing');
      return { repaired };
    });
  }

  private sweepSoon(): void {
    if (this.services.isAnyLeaving() || this.leaving.size > 0) this.sweeping.request();
  }

  private async sweep(): Promise<void> {
    if (this.closed) return;
    try {
      await this.services.sweep(wantedBy(this.wantedPools()), Date.now());
      await this.releaseAddresses();
      await this.unbind(await this.leaving.idle());
    } finally {
      this.sweepSoon();
    }
  }

  /** One at a time: requests on one socket, and what they change here. */
  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const next = this.turn.then(work);
    this.turn = next.catch(() => {});
    return next;
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.sweeping.close();
    await this.turn;
    await this.table.close();
    this.device.close();
    this.nftSocket.close();
    this.socket.close();
  }
}
