/** What a mode counts, against what a table of nftables counts at the servers' own end. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Dataplane, Refusal } from '../../../src/dataplane/dataplane.ts';
import { COUNTS, type TrafficCell, type TrafficSettings } from '../../../src/dataplane/traffic.ts';
import type { DesiredService, DesiredState } from '../../../src/model/desired.ts';
import { changeBetween, stateOf } from '../../support/desired.ts';
import { type HostName, NodeWorld } from '../../support/node-world.ts';
import type { skipUnless } from '../../support/skip.ts';
import { countAt, type Truth, truthOf } from '../../support/truth.ts';
import { NODE, web } from '../../support/web.ts';

export const WAIT = { timeout: 60_000, interval: 50 };
export const FOUR = ['10.10.1.1 80', '10.10.2.2 80'];
const SIX = ['fd00:10:10:1::1 80', 'fd00:10:10:2::2 80'];
const OWN = ['192.0.2.11 30000'];
export const COUNT = 20;

type PlaceName = HostName | 'node';
interface Case {
  readonly title: string;
  readonly protocol: 'tcp' | 'udp';
  readonly from: PlaceName;
  /** Of web(). */
  readonly host: number;
  readonly to: string;
  readonly port: number;
  readonly backends: readonly string[];
  readonly servers: readonly PlaceName[];
}

const PODS = ['L1', 'R2'] as const;
const CASES: readonly Case[] = [
  { title: 'a pod to a cluster IP, TCP', protocol: 'tcp' as const, from: 'pod' as const, to: '10.200.1.20' },
  { title: 'a pod to a cluster IP, UDP', protocol: 'udp' as const, from: 'pod' as const, to: '10.200.1.21' },
  {
    ...{ title: 'a pod to a cluster IP, TCP, IPv6', protocol: 'tcp' as const, from: 'pod' as const },
    ...{ to: 'fd00:10:200::22', backends: SIX },
  },
  {
    ...{ title: 'a pod to a cluster IP, UDP, IPv6', protocol: 'udp' as const, from: 'pod' as const },
    ...{ to: 'fd00:10:200::23', backends: SIX },
  },
  {
    ...{ title: 'outside to a NodePort, masqueraded', protocol: 'tcp' as const, from: 'outside' as const },
    ...{ to: '192.0.2.11', port: 31024 },
  },
  {
    ...{ title: 'outside to a server of the node', protocol: 'tcp' as const, from: 'outside' as const },
    ...{ to: '198.18.1.25', backends: OWN },
  },
  { title: 'the node to a pod', protocol: 'tcp' as const, from: 'node' as const, to: '10.200.1.26' },
  {
    ...{ title: 'the node to itself, by lo', protocol: 'tcp' as const, from: 'node' as const },
    ...{ to: '10.200.1.27', backends: OWN },
  },
].map((one, i) => ({
  ...{ port: 9000, host: 20 + i, backends: FOUR as readonly string[] },
  ...{ servers: one.to.endsWith('5') || one.to.endsWith('7') ? ['node'] : PODS },
  ...one,
}));

export interface Counting {
  readonly title: string;
  readonly gate: ReturnType<typeof skipUnless>;
  readonly cgroup?: string;
  open(netns: string, traffic: TrafficSettings): Dataplane;
  /** Undoes what open() did beside the dataplane. */
  close?(): void;
  /**
   * Packets of a TCP connection, each way, that the mode may not see: the last ones of a socket that is closed already.
   * Default: none.
   */
  readonly unseen?: (one: Pick<Case, 'protocol' | 'from'>) => number;
}

/** As web(), where a server of the node itself is one of this node. */
function serviceOf({ host, backends, servers }: Case): DesiredService {
  const service = web(host, backends);
  const own = servers.includes('node');
  const ports = service.ports.map((port) => ({
    ...port,
    cluster: port.cluster.map((backend) => ({ ...backend, local: backend.local || own })),
  }));
  return { ...service, ports };
}

/** A world with one dataplane at a time, and the services that it is at. */
export class CountingWorld {
  readonly #counting: Counting;
  #state: DesiredState = stateOf([], NODE);
  world!: NodeWorld;
  dataplane: Dataplane | null = null;
  /** Connections by cell, as last told. */
  #told = new Map<string, number>();

  constructor(counting: Counting) {
    this.#counting = counting;
  }

  async create(): Promise<void> {
    const { cgroup = null } = this.#counting;
    this.world = await NodeWorld.create({ names: ['pod', 'L1', 'R2', 'outside', 'nobody'], cgroup });
    for (const place of ['L1', 'R2', 'node'] as const) await countAt(this.world, place, [80, 30000]);
  }

  async end(): Promise<void> {
    if (!this.dataplane) return;
    await this.dataplane.close();
    this.dataplane = null;
    this.#counting.close?.();
  }

  /** Ends what there was. */
  async start(traffic: TrafficSettings, services: readonly DesiredService[]): Promise<Dataplane> {
    await this.end();
    this.#told = new Map();
    this.dataplane = this.#counting.open(this.world.netns, traffic);
    this.#state = stateOf(services, NODE);
    expect((await this.dataplane.start(this.#state)).refusals).toEqual([]);
    return this.dataplane;
  }

  /** Returns what was refused. */
  async apply(services: readonly DesiredService[]): Promise<readonly Refusal[]> {
    const next = stateOf(services, NODE);
    const { refusals } = await this.dataplane!.apply(changeBetween(this.#state, next), next);
    this.#state = next;
    return refusals;
  }

  get state(): DesiredState {
    return this.#state;
  }

  /** Of the service ports whose name begins so. */
  async cells(name = ''): Promise<TrafficCell[]> {
    const all = await this.dataplane!.traffic!()!.read(this.#state);
    return all.filter(({ port }) => port.startsWith(name));
  }

  /** Since start(), of what is there and of what ended, as far as it was told to connections(). */
  async connections(name: string): Promise<number> {
    for (const { cell, connections } of await this.cells(name)) {
      expect(connections).toBeGreaterThanOrEqual(this.#told.get(cell) ?? 0);
      this.#told.set(cell, connections);
    }
    return [...this.#told.values()].reduce((sum, count) => sum + count, 0);
  }
}

/** The tests that every mode is to pass. `more` adds those of one. */
export function testCounting(counting: Counting, more: (ground: CountingWorld) => void = () => {}): void {
  const { gate, title, unseen = () => 0 } = counting;
  gate.describe(`${title}, counting`, () => {
    const ground = new CountingWorld(counting);
    beforeAll(async () => {
      await ground.create();
      await ground.start({ level: 'traffic', by: 'endpoint' }, []);
    });
    afterAll(async () => {
      await ground.end();
      await ground.world?.remove();
    });

    test.each(CASES)('$title: every connection, packet and byte, once', async (one) => {
      const { world } = ground;
      const { protocol, from, host, to, port, backends, servers } = one;
      expect(await ground.apply([serviceOf(one)])).toEqual([]);
      const before = await truthOf(world, servers);
      const { outcomes } = await world.place(from).call(protocol, to, port, { count: COUNT, concurrency: 4 });
      expect(outcomes).toMatchObject({ ok: COUNT });
      const name = `test/web-${host}:${protocol}`;
      // The last of a connection's packets may still be under way.
      await expect
        .poll(async () => {
          const counted = sumOf(await ground.cells(name));
          const truth = differenceOf(await truthOf(world, servers), before);
          return agree(counted, truth, unseen(one) * COUNT) ? 'as at the servers' : { counted, truth };
        }, WAIT)
        .toBe('as at the servers');
      const named = backends.map((text) => text.replace(/^(.*:.*) /, '[$1] ').replace(' ', ':'));
      for (const { endpoint } of await ground.cells(name)) expect(named).toContain(endpoint);
      // Counting is nobody's difference.
      expect((await ground.dataplane!.verify(ground.state)).repaired).toEqual([]);
    });

    test('what has no endpoint is no connection', async () => {
      await ground.apply([web(70, [])]);
      await ground.world.place('pod').call('tcp', '10.200.1.70', 9000, { count: 3 });
      await ground.world.place('outside').call('tcp', '198.18.1.70', 9000, { count: 3 });
      expect(await ground.cells('test/web-70')).toEqual([]);
    });

    more(ground);
  });
}

/** The level that counts no packets. */
export async function expectConnectionsAlone(ground: CountingWorld): Promise<void> {
  await ground.start({ level: 'connections', by: 'service' }, [web(10, FOUR)]);
  await ground.world.place('pod').call('tcp', '10.200.1.10', 9000, { count: 7 });
  const counts = async () => (await ground.cells()).map(({ cell, ...rest }) => rest);
  // The kernel may take its time to sum up.
  await expect.poll(counts, WAIT).toEqual([
    {
      ...{ port: 'test/web-10:tcp', endpoint: '', connections: 7 },
      ...{ packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 },
    },
  ]);
}

function differenceOf(after: Truth, before: Truth): Truth {
  return {
    packetsIn: after.packetsIn - before.packetsIn,
    bytesIn: after.bytesIn - before.bytesIn,
    packetsOut: after.packetsOut - before.packetsOut,
    bytesOut: after.bytesOut - before.bytesOut,
  };
}

function agree(counted: ReturnType<typeof sumOf>, truth: Truth, unseen: number): boolean {
  if (counted.connections !== COUNT) return false;
  if (unseen === 0)
    return (Object.keys(truth) as (keyof Truth)[]).every((key) => counted[key] === truth[key]);
  return (['packetsIn', 'packetsOut'] as const).every(
    (key) => counted[key] <= truth[key] && counted[key] >= truth[key] - unseen,
  );
}

export function sumOf(cells: readonly TrafficCell[]) {
  const sum = { connections: 0, packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 };
  for (const cell of cells) for (const count of COUNTS) sum[count] += cell[count];
  return sum;
}
