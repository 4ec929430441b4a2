/**
 * The virtual services of our pools: what the kernel holds, as it has told us, and the requests that bring it to
 * what pools need. A backend that leaves a pool with connections gets weight 0 until they have ended
 * (UDP has no end and goes at once); one that returns meanwhile just gets its weight back.
 */
import type { Backend } from '../../model/desired.ts';
import type { Family, Protocol } from '../../model/records.ts';
import { PackedWriter } from '../nft/packed.ts';
import { backendKey } from '../nft/pool.ts';
import { markOf, poolOfMark } from './marks.ts';
import type { IpvsRefusal, IpvsSocket } from './native.ts';
import {
  type Destination,
  readServices,
  type ServiceName,
  type ServiceSettings,
  writeDestination,
  writeService,
  writeServiceRemoval,
} from './packed-ipvs.ts';
import { HASHED, type Scheduling } from './scheduling.ts';
import type { CountersTouched, IpvsTraffic } from './traffic.ts';

/** A pool as it is to be. */
export interface WantedPool {
  readonly family: Family;
  readonly number: number;
  readonly protocol: Protocol;
  readonly scheduling: Scheduling;
  readonly backends: readonly Backend[];
  /** Whose it is, for refusals. */
  readonly owner: string;
  /** DesiredPort.name, for whom it counts. */
  readonly port: string;
}

interface Held extends ServiceName {
  settings: ServiceSettings;
  readonly destinations: Map<string, Destination>;
}

export interface CommitResult {
  readonly operations: number;
  readonly refused: readonly { readonly owner: string; readonly what: string; readonly errno: string }[];
}

type Step = { readonly owner: string; readonly what: string; readonly undo: () => void };

function serviceKey({ family, mark }: ServiceName): string {
  return `${family} ${mark}`;
}

function sameSettings(a: ServiceSettings, b: ServiceSettings): boolean {
  return a.scheduler === b.scheduler && a.flags === b.flags && a.timeoutSeconds === b.timeoutSeconds;
}

/** Requests under way, with what is to be forgotten again when the kernel refuses one. */
class Plan {
  readonly out = new PackedWriter(4096);
  readonly steps: Step[] = [];
  readonly made: CountersTouched['made'][number][] = [];
  readonly removed: ServiceName[] = [];
  /** By serviceKey(). */
  readonly lost = new Map<string, ServiceName>();
  readonly got = new Map<string, ServiceName>();

  add(owner: string, what: string, undo: () => void): void {
    this.steps.push({ owner, what, undo });
  }
}

export class VirtualServices {
  private readonly socket: IpvsSocket;
  private readonly held = new Map<string, Held>();
  /** By service and backend: when a destination without weight goes, connections or not. */
  private readonly leaving = new Map<string, number>();
  /** By service: when one that lost its last destination goes. */
  private readonly emptied = new Map<string, number>();
  private readonly counting: IpvsTraffic;
  /** How long a destination without weight may stay for its connections' sake. */
  graceMs: number;
  /** Connections of ours, as of the last sweep. */
  connections = 0;

  constructor(socket: IpvsSocket, graceMs: number, counting: IpvsTraffic) {
    this.socket = socket;
    this.graceMs = graceMs;
    this.counting = counting;
  }

  /** Reads what the kernel holds of ours. Returns lines of what differed from what we believed. */
  async read(): Promise<string[]> {
    const before = new Map(this.held);
    const differences: string[] = [];
    this.held.clear();
    for (const row of readServices(await this.socket.dump())) {
      if (poolOfMark(row.mark) === 0) continue;
      const { family, mark, scheduler, timeoutSeconds } = row;
      const settings = { scheduler, flags: row.flags & ~HASHED, timeoutSeconds };
      const destinations = new Map(row.destinations.map((one) => [backendKey(one), one as Destination]));
      const service: Held = { family, mark, settings, destinations };
      const known = before.get(serviceKey(row));
      before.delete(serviceKey(row));
      if (!known || !sameHeld(known, service))
        differences.push(`IPVS service FWM ${mark} of IPv${family} was changed`);
      this.held.set(serviceKey(row), service);
    }
    for (const gone of before.values())
      differences.push(`IPVS service FWM ${gone.mark} of IPv${gone.family} was gone`);
    this.forgetGone();
    return differences;
  }

  /** Nothing is waited for that somebody else took away. */
  private forgetGone(): void {
    for (const key of this.emptied.keys()) if (!this.held.has(key)) this.emptied.delete(key);
    for (const place of this.leaving.keys()) {
      const [family, mark, ...backend] = place.split(' ');
      const service = this.held.get(`${family} ${mark}`);
      if (!service?.destinations.has(backend.join(' '))) this.leaving.delete(place);
    }
  }

  /** The highest pool number in the kernel. */
  lastPool(family: Family): number {
    let last = 0;
    for (const service of this.held.values())
      if (service.family === family) last = Math.max(last, poolOfMark(service.mark));
    return last;
  }

  /** Whether destinations wait for their connections to end, or services for their last sum. */
  isAnyLeaving(): boolean {
    return this.leaving.size + this.emptied.size > 0;
  }

  /** Services and destinations that pools need: added, or set right. Nothing is taken away. */
  async provide(pools: readonly WantedPool[]): Promise<CommitResult> {
    const plan = new Plan();
    for (const pool of pools) this.planPool(plan, pool);
    return this.commit(plan);
  }

  private planPool(plan: Plan, pool: WantedPool): void {
    const name: ServiceName = { family: pool.family, mark: markOf(pool.number) };
    const key = serviceKey(name);
    const { scheduler, flags, timeoutSeconds } = pool.scheduling;
    const settings = { scheduler, flags, timeoutSeconds };
    this.emptied.delete(key);
    this.counting.own(name, pool.port);
    let service = this.held.get(key);
    const isNew = !service;
    if (!service) {
      service = { ...name, settings, destinations: new Map() };
      this.held.set(key, service);
      writeService(plan.out, 'newService', name, settings);
      plan.made.push({ name, port: pool.port, destinations: pool.backends });
      plan.add(pool.owner, `scheduler ${scheduler}`, () => this.held.delete(key));
    } else if (!sameSettings(service.settings, settings)) {
      const { settings: before } = service;
      const changed = service;
      changed.settings = settings;
      writeService(plan.out, 'setService', name, settings);
      plan.add(pool.owner, `scheduler ${scheduler}`, () => {
        changed.settings = before;
      });
    }
    for (const backend of pool.backends) {
      if (!isNew && !service.destinations.has(backendKey(backend))) plan.got.set(key, name);
      this.planDestination(plan, pool, service, { ...backend, weight: pool.scheduling.weightOf(backend) });
    }
  }

  private planDestination(plan: Plan, pool: WantedPool, service: Held, to: Destination): void {
    const key = backendKey(to);
    const before = service.destinations.get(key);
    this.leaving.delete(`${serviceKey(service)} ${key}`);
    if (before?.weight === to.weight) return;
    const { address, port, weight } = to;
    service.destinations.set(key, { address, port, weight });
    writeDestination(plan.out, before ? 'setDestination' : 'newDestination', service, to);
    plan.add(pool.owner, `backend ${key}`, () => {
      if (before) service.destinations.set(key, before);
      else service.destinations.delete(key);
    });
  }

  /**
   * Takes away what a pool does not need.
   * @param wanted null: all of the service
   */
  async withdraw(
    pools: readonly {
      readonly name: ServiceName;
      readonly wanted: WantedPool | null;
      readonly protocol: Protocol;
    }[],
    now: number,
  ): Promise<CommitResult> {
    const plan = new Plan();
    for (const { name, wanted, protocol } of pools) {
      const service = this.held.get(serviceKey(name));
      if (!service) continue;
      const keep = new Set(wanted?.backends.map(backendKey));
      for (const [key, to] of service.destinations) {
        if (keep.has(key)) continue;
        if (protocol === 'UDP') this.planRemoval(plan, service, to);
        else this.planLeaving(plan, service, to, now);
      }
      if (!wanted && service.destinations.size === 0) this.planEnd(plan, service, now);
    }
    return this.commit(plan);
  }

  private planLeaving(plan: Plan, service: Held, to: Destination, now: number): void {
    const key = backendKey(to);
    const place = `${serviceKey(service)} ${key}`;
    if (!this.leaving.has(place)) this.leaving.set(place, now + this.graceMs);
    if (to.weight === 0) return;
    service.destinations.set(key, { ...to, weight: 0 });
    writeDestination(plan.out, 'setDestination', service, { ...to, weight: 0 });
    plan.add('', `backend ${key}`, () => service.destinations.set(key, to));
  }

  private planRemoval(plan: Plan, service: Held, to: Destination): void {
    const key = backendKey(to);
    service.destinations.delete(key);
    this.leaving.delete(`${serviceKey(service)} ${key}`);
    plan.lost.set(serviceKey(service), service);
    writeDestination(plan.out, 'delDestination', service, to);
    plan.add('', `backend ${key}`, () => {});
  }

  /** Of a service without destinations: now, or once what it counted last is known. */
  private planEnd(plan: Plan, service: Held, now: number): void {
    const key = serviceKey(service);
    const end = this.emptied.get(key) ?? now + this.counting.lastSumMs;
    this.emptied.set(key, end);
    if (now < end) return;
    this.emptied.delete(key);
    this.held.delete(key);
    plan.removed.push(service);
    writeServiceRemoval(plan.out, service);
    plan.add('', `service FWM ${service.mark}`, () => {});
  }

  /** Names of the services in the kernel for which `isWanted` is false. */
  unwanted(isWanted: (family: Family, pool: number) => boolean): ServiceName[] {
    return [...this.held.values()].filter(({ family, mark }) => !isWanted(family, poolOfMark(mark)));
  }

  /** Whether services of ours are in the kernel. */
  isAny(): boolean {
    return this.held.size > 0;
  }

  /** Takes destinations away at once, connections or not. */
  async drop(isMeant: (service: ServiceName, backend: string) => boolean): Promise<CommitResult> {
    const plan = new Plan();
    for (const service of this.held.values())
      for (const [key, to] of service.destinations)
        if (isMeant(service, key)) this.planRemoval(plan, service, to);
    return this.commit(plan);
  }

  /** Whether a service is still there. */
  has(name: ServiceName): boolean {
    return this.held.has(serviceKey(name));
  }

  /** Removes destinations whose connections have ended or whose time is over, and services that nobody needs. */
  async sweep(isWanted: (family: Family, pool: number) => boolean, now: number): Promise<CommitResult> {
    const plan = new Plan();
    const rows = readServices(await this.socket.dump());
    this.connections = 0;
    for (const row of rows) {
      const service = this.held.get(serviceKey(row));
      if (!service) continue;
      for (const to of row.destinations) {
        this.connections += to.connections;
        const deadline = this.leaving.get(`${serviceKey(row)} ${backendKey(to)}`);
        if (deadline === undefined || (to.connections > 0 && now < deadline)) continue;
        this.planRemoval(plan, service, to);
      }
      if (service.destinations.size === 0 && !isWanted(row.family, poolOfMark(row.mark)))
        this.planEnd(plan, service, now);
    }
    return this.commit(plan);
  }

  private async commit(plan: Plan): Promise<CommitResult> {
    const { out, steps, made, removed, lost, got } = plan;
    if (steps.length === 0) return { operations: 0, refused: [] };
    const touched = { made, removed, lost: [...lost.values()], got: [...got.values()] };
    const answers: readonly IpvsRefusal[] = await this.counting.around(touched, () =>
      this.socket.commit(Buffer.from(out.take())),
    );
    const refused = [];
    for (const { index, errno } of answers) {
      const step = steps[index];
      if (!step) continue;
      step.undo();
      refused.push({ owner: step.owner, what: step.what, errno });
    }
    return { operations: steps.length - refused.length, refused };
  }
}

function sameHeld(a: Held, b: Held): boolean {
  if (!sameSettings(a.settings, b.settings) || a.destinations.size !== b.destinations.size) return false;
  for (const [key, to] of a.destinations) if (b.destinations.get(key)?.weight !== to.weight) return false;
  return true;
}
