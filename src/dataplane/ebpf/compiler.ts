/**
 * Desired state -> tables. plan() makes everything that a service needs where no program looks yet, or refuses that
 * service alone; commit() then makes it visible, store by store, so that a packet sees what was or what will be and
 * nothing in between. No system calls but for new names and source ranges.
 */
import type { Backend, DesiredPort, DesiredService } from '../../model/desired.ts';
import type { ObjectKey } from '../../model/records.ts';
import type { Refusal } from '../dataplane.ts';
import { ABI, poolWord } from './abi.ts';
import { Backends, backendKey } from './backends.ts';
import { type FrontendEntry, NO_POOL, type PoolEntry, type PortEntry, TableFull } from './entries.ts';
import { contentOf, type FrontendContent, type FrontendRules, Frontends, protoOf } from './frontends.ts';
import { Grave } from './grave.ts';
import { Guards } from './guards.ts';
import { Indexes } from './indexes.ts';
import { type TableMaps, writeName } from './maps.ts';
import { eachMember, flagsOfMembers, membersOf, sameBackends, sameLocality } from './members.ts';
import { NodePorts } from './node-ports.ts';
import { Ranges } from './ranges.ts';
import type { Births } from './traffic.ts';

type Undo = (() => void)[];

/** One service's planned change. */
interface Plan {
  readonly service: ObjectKey;
  readonly before: readonly PortEntry[];
  readonly after: readonly PortEntry[];
  readonly undo: Undo;
}

/** A change of one service; null: it is gone. */
export interface ServiceChange {
  readonly service: ObjectKey;
  readonly next: DesiredService | null;
}

/** A backend that was in a pool and is not any more. */
export interface Departure {
  readonly record: number;
  readonly port: DesiredPort;
  readonly backend: Backend;
}

export interface CompilerResult {
  readonly operations: number;
  readonly refusals: readonly Refusal[];
  readonly departures: readonly Departure[];
}

const ADDRESS_CONTENT: FrontendContent = {
  flags: ABI.F_ADDRESS,
  inside: poolWord(0, 0, ABI.REJECT),
  outside: poolWord(0, 0, ABI.REJECT),
  service: 0,
  affinity: 0,
  affinitySeconds: 0,
  guard: 0,
  rangeCount: 0,
};

export class Compiler {
  readonly maps: TableMaps;
  readonly grave: Grave;
  readonly frontends: Frontends;
  readonly backends: Backends;
  readonly guards: Guards;
  readonly pools: Ranges;
  readonly ids: Indexes;
  readonly nodePorts: NodePorts;
  readonly services = new Map<ObjectKey, readonly PortEntry[]>();
  /** Told of service ports and backends that get a number. */
  births: Births | null = null;
  #rules: FrontendRules;

  /** `now` in milliseconds, never going back. */
  constructor(maps: TableMaps, rules: FrontendRules, now: () => number) {
    this.maps = maps;
    this.#rules = rules;
    this.grave = new Grave(now);
    this.frontends = new Frontends(maps, this.grave, now);
    this.backends = new Backends(maps, now);
    this.guards = new Guards(maps, this.grave);
    this.pools = new Ranges(maps.poolSlots.entries);
    this.ids = new Indexes(maps.names.handle.entries, 1);
    this.nodePorts = new NodePorts(maps.nodePorts);
  }

  get rules(): FrontendRules {
    return this.#rules;
  }

  apply(changes: readonly ServiceChange[]): CompilerResult {
    this.grave.turn();
    const plans: Plan[] = [];
    const refusals: Refusal[] = [];
    for (const { service, next } of changes) {
      const undo: Undo = [];
      try {
        plans.push(this.#plan(service, next, undo));
      } catch (error) {
        for (const step of undo.toReversed()) step();
        if (!(error instanceof TableFull)) throw error;
        refusals.push({ service, reason: error.message });
      }
    }
    return { ...this.#commit(plans), refusals };
  }

  #plan(service: ObjectKey, next: DesiredService | null, undo: Undo): Plan {
    const before = this.services.get(service) ?? [];
    const after = (next?.ports ?? []).map((port) => {
      const old = before.find(
        ({ desired }) =>
          desired.name === port.name && desired.protocol === port.protocol && desired.family === port.family,
      );
      return this.#planPort(service, port, old, undo);
    });
    return { service, before, after, undo };
  }

  #planPort(service: ObjectKey, desired: DesiredPort, old: PortEntry | undefined, undo: Undo): PortEntry {
    const id = old?.id ?? this.#takeId(undo);
    if (!old) this.births?.service(id, desired);
    // Not looked at where nothing differs, which after a restart is nearly always.
    let known: Map<string, number> | undefined;
    const members = () => {
      known ??= membersOf(old);
      return known;
    };
    // A new port with one pool alone shares no record with anything.
    const single = !old && (desired.cluster.length === 0 || desired.local.length === 0);
    const pool = (backends: readonly Backend[], was: PoolEntry | undefined, had: readonly Backend[]) => {
      if (was && sameBackends(backends, had)) return was;
      if (single) return this.#newPool(desired, backends, undo);
      return this.#planPool({ id, desired }, backends, members(), undo);
    };
    const cluster = pool(desired.cluster, old?.cluster, old?.desired.cluster ?? []);
    const local = pool(desired.local, old?.local, old?.desired.local ?? []);
    const proto = protoOf(desired);
    const { family } = desired;
    const frontends: FrontendEntry[] = [];
    const addresses = new Set<FrontendEntry>();
    for (const { address, port, kind } of desired.frontends) {
      frontends.push(this.frontends.obtain(address, port, proto, family, undo));
      if (kind === 'ClusterIP') addresses.add(this.frontends.obtain(address, 0, 0, family, undo));
    }
    for (const entry of addresses) {
      entry.uses++;
      undo.push(() => entry.uses--);
    }
    const guards = desired.frontends.map(({ sourceRanges }) =>
      sourceRanges ? this.guards.obtain(family, sourceRanges, undo) : null,
    );
    return { id, service, desired, cluster, local, frontends, guards, addresses: [...addresses] };
  }

  #takeId(undo: Undo): number {
    const id = this.ids.take();
    if (id < 0) throw new TableFull(`the table of ${this.ids.limit} service ports is full`);
    undo.push(() => this.ids.release(id));
    return id;
  }

  /** As #planPool() where no backend has a record yet: at a start nearly all, so with one step of undoing. */
  #newPool(desired: DesiredPort, backends: readonly Backend[], undo: Undo): PoolEntry {
    if (backends.length === 0) return NO_POOL;
    const records: number[] = [];
    undo.push(() => {
      for (const record of records) this.backends.records.release(record);
    });
    for (const backend of backends) {
      const record = this.backends.make(backend);
      records.push(record);
      this.births?.backend(record, desired, backend);
    }
    return this.#slotsFor(records, undo);
  }

  #planPool(
    { id, desired }: Pick<PortEntry, 'id' | 'desired'>,
    backends: readonly Backend[],
    members: Map<string, number>,
    undo: Undo,
  ): PoolEntry {
    if (backends.length === 0) return NO_POOL;
    const records: number[] = [];
    for (const backend of backends) {
      const key = backendKey(backend.address, backend.port);
      let record = members.get(key);
      if (record === undefined) {
        record = this.backends.join(id, key, backend, undo);
        this.births?.backend(record, desired, backend);
        members.set(key, record);
      }
      records.push(record);
    }
    return this.#slotsFor(records, undo);
  }

  #slotsFor(records: readonly number[], undo: Undo): PoolEntry {
    const base = this.pools.take(records.length);
    if (base < 0)
      throw new TableFull(`no room for a pool of ${records.length} among ${this.pools.limit} slots`);
    undo.push(() => this.pools.release(base, records.length));
    const { words } = this.maps.poolSlots;
    for (let i = 0; i < records.length; i++) words[(base + i) * 2] = records[i]!;
    return { records, base };
  }

  #commit(plans: readonly Plan[]): Omit<CompilerResult, 'refusals'> {
    let operations = this.#writeAhead(plans);
    for (const { after } of plans)
      for (const port of after) {
        operations += this.nodePorts.add(port);
        for (const entry of port.addresses) operations += this.frontends.write(entry, ADDRESS_CONTENT, null);
        for (let i = 0; i < port.frontends.length; i++)
          operations += this.frontends.write(port.frontends[i]!, this.#content(port, i), port);
      }
    for (const { service, after } of plans) {
      if (after.length > 0) this.services.set(service, after);
      else this.services.delete(service);
    }
    const departures: Departure[] = [];
    for (const plan of plans) operations += this.#retire(plan, departures);
    return { operations, departures };
  }

  #content(port: PortEntry, i: number): FrontendContent {
    return contentOf(port, port.desired.frontends[i]!, port.guards[i]!, this.#rules);
  }

  /** What must be there before the first frontend points to it. */
  #writeAhead(plans: readonly Plan[]): number {
    let operations = 0;
    const names: PortEntry[] = [];
    for (const { before, after } of plans) {
      const known = new Set(before.map(({ id }) => id));
      for (const port of after) {
        if (!known.has(port.id)) names.push(port);
        eachMember(port, (record, flags) => {
          operations += this.backends.setFlags(record, this.backends.flags(record) | flags);
        });
      }
    }
    operations += this.guards.write(plans.flatMap(({ after }) => after.flatMap(presentGuards)));
    if (names.length > 0) {
      const ids = new Uint8Array(Uint32Array.from(names, ({ id }) => id).buffer);
      this.maps.names.update(ids, Buffer.concat(names.map(({ desired }) => writeName(desired.name))));
    }
    return operations + names.length;
  }

  /** Takes out of sight what no frontend points to any more; its room is free after a grace. */
  #retire({ before, after }: Plan, departures: Departure[]): number {
    let operations = 0;
    const kept = new Map(after.map((port) => [port.id, port]));
    for (const old of before) {
      for (const entry of old.frontends)
        if (entry.owner === old) operations += this.frontends.withdraw(entry);
      for (const entry of old.addresses) if (--entry.uses === 0) this.frontends.remove(entry);
      for (const guard of presentGuards(old)) this.guards.release(guard);
      operations += this.nodePorts.remove(old);
      const next = kept.get(old.id);
      operations += this.#retireBackends(old, next, departures);
      this.#retirePools(old, next);
      if (!next) this.#retireId(old.id);
    }
    return operations;
  }

  #retireBackends(old: PortEntry, next: PortEntry | undefined, departures: Departure[]): number {
    if (next && next.cluster === old.cluster && next.local === old.local && sameLocality(old, next)) return 0;
    let operations = 0;
    const members = next ? flagsOfMembers(next) : new Map<number, number>();
    for (const [record, flags] of members) operations += this.backends.setFlags(record, flags);
    for (const [pool, backends] of [
      [old.cluster, old.desired.cluster],
      [old.local, old.desired.local],
    ] as const)
      for (let i = 0; i < pool.records.length; i++) {
        const record = pool.records[i]!;
        if (members.has(record) || this.backends.gone.has(record)) continue;
        operations += this.backends.setFlags(record, 0);
        this.backends.leave(old.id, record);
        departures.push({ record, port: old.desired, backend: backends[i]! });
      }
    return operations;
  }

  #retirePools(old: PortEntry, next: PortEntry | undefined): void {
    for (const kind of ['cluster', 'local'] as const) {
      const { base, records } = old[kind];
      if (base < 0 || next?.[kind] === old[kind]) continue;
      this.grave.add(() => this.pools.release(base, records.length));
    }
  }

  #retireId(id: number): void {
    this.grave.add(() => {
      this.maps.names.remove(new Uint8Array(Uint32Array.of(id).buffer));
      this.ids.release(id);
    });
  }

  /** Other rules for the same state, as when the detector changes. Returns how many stores it took. */
  setRules(rules: FrontendRules): number {
    this.#rules = rules;
    let operations = 0;
    for (const ports of this.services.values())
      for (const port of ports)
        port.frontends.forEach((entry, i) => {
          if (entry.owner === port) operations += this.frontends.write(entry, this.#content(port, i), port);
        });
    return operations;
  }

  /** Compares all of the tables with what was committed and writes anew what differs. Says what, by service. */
  repair(): string[] {
    this.grave.turn();
    const repaired: string[] = [];
    for (const ports of this.services.values()) for (const port of ports) this.#repairPort(port, repaired);
    for (const entry of this.frontends.byKey.values()) {
      if (entry.uses === 0 || this.frontends.says(entry, ADDRESS_CONTENT)) continue;
      this.frontends.repair(entry, ADDRESS_CONTENT);
      repaired.push(`the address ${entry.address} was changed`);
    }
    const { missing, strange } = this.guards.repair();
    if (missing + strange > 0)
      repaired.push(`source ranges: ${missing} were missing, ${strange} were strange`);
    if (this.nodePorts.repair()) repaired.push('the list of NodePorts was changed');
    return repaired;
  }

  #repairPort(port: PortEntry, repaired: string[]): void {
    const { name } = port.desired;
    const members = flagsOfMembers(port);
    const { words } = this.maps.poolSlots;
    for (const [pool, backends] of [
      [port.cluster, port.desired.cluster],
      [port.local, port.desired.local],
    ] as const)
      pool.records.forEach((record, i) => {
        const flags = members.get(record)!;
        if (!this.backends.says(record, backends[i]!, flags)) {
          this.backends.repair(record, backends[i]!, flags);
          repaired.push(`${name}: backend ${backends[i]!.address} was changed`);
        }
        if (words[(pool.base + i) * 2] === record) return;
        words[(pool.base + i) * 2] = record;
        repaired.push(`${name}: a slot of its pool was changed`);
      });
    port.frontends.forEach((entry, i) => {
      const content = this.#content(port, i);
      if (entry.owner !== port || this.frontends.says(entry, content)) return;
      this.frontends.repair(entry, content);
      repaired.push(`${name}: frontend ${entry.address}:${entry.port} was changed`);
    });
    const id = new Uint8Array(Uint32Array.of(port.id).buffer);
    if (this.maps.names.get(id) === null) {
      this.maps.names.update(id, writeName(name));
      repaired.push(`${name}: its name was gone`);
    }
  }
}

function presentGuards(port: PortEntry) {
  return port.guards.filter((guard) => guard !== null);
}
