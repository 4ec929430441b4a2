/**
 * Ten real minutes without an API server, under open connections and new ones by every way; it comes back with another
 * state and without its history. The same with waits made shorter, and more of them: kubernetes.test.ts.
 */
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { clusterCidrFlag } from '../../src/lab/wiring.ts';
import { ApiRoad, ROAD_PORT } from '../support/api-road.ts';
import { FakeApiServer } from '../support/apiserver.ts';
import { isLong } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, logged, OwnAgent, statusOf } from './support/node.ts';

const root = skipUnless(
  isLong && privilege() === 'root',
  'takes long; TRIPLANE_TEST_LONG=1 runs it, as root',
);
const MINUTE_MS = 60_000;
const GONE_MS = 10 * MINUTE_MS;
/** The longest back-off is half a minute; a watch that is half-open may last longer than the outage. */
const BACK_MS = 6 * MINUTE_MS;
const BACK = { timeout: BACK_MS, interval: 500 };
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** All of it for one mode and one way to be gone; they run beside each other. */
class Outage {
  readonly world: SwitchWorld;
  readonly #mode: 'nft' | 'ebpf';
  readonly #road: ApiRoad;
  readonly #args: readonly string[];
  agent: OwnAgent;

  private constructor(world: SwitchWorld, road: ApiRoad, mode: 'nft' | 'ebpf') {
    this.world = world;
    this.#mode = mode;
    this.#road = road;
    this.#args = [
      ...['--master', `http://127.0.0.1:${ROAD_PORT}`, '--cluster-cidr', clusterCidrFlag(world.lab.plan)],
      ...['--proxy-mode', mode, '--bpf-root', `/sys/fs/bpf/${world.lab.name}`],
    ];
    this.agent = this.#start();
  }

  static async begin(mode: 'nft' | 'ebpf', label: string): Promise<Outage> {
    const world = await SwitchWorld.create({ label, families: [4] });
    const road = new ApiRoad(path.join(path.dirname(world.lab.manifests.path), 'api.sock'));
    await road.open(world.lab, 'n1');
    return new Outage(world, road, mode);
  }

  #start(): OwnAgent {
    return new OwnAgent(this.world.lab, 'n1', this.#args);
  }

  async serve(version: number, ...more: readonly string[]): Promise<void> {
    const { lab } = this.world;
    const api = await new FakeApiServer({ version }).listen();
    api.set('nodes', ...lab.nodeObjects());
    const web = lab.plan.pods.filter(({ name, labels }) => labels.app === 'web' || more.includes(name));
    for (const object of this.world.serviceObjects(web))
      api.set(object.kind === 'Service' ? 'services' : 'endpointslices', object);
    api.compact();
    this.#road.lead(api);
  }

  async reached(): Promise<string[]> {
    const { address, port } = this.world.ways(4)[0]!;
    const { pods } = await this.world.lab.pod('a').call('tcp', address, port, { count: 30, timeoutMs: 8000 });
    return Object.keys(pods).sort();
  }

  /** 'closed': nobody answers. 'silent': what is connected stays, and what comes anew finds nobody. */
  async goes(how: 'closed' | 'silent'): Promise<void> {
    if (how === 'closed') return this.#road.cut();
    this.#road.silence();
    this.#road.api = null;
  }

  async play(how: 'closed' | 'silent'): Promise<void> {
    const { world } = this;
    await this.serve(100);
    await this.agent.ready();
    const durationMs = GONE_MS + BACK_MS + MINUTE_MS;
    await world.open(2, { intervalMs: 500, durationMs });
    await world.load(2, 'fin', durationMs);
    await this.goes(how);
    await pause(GONE_MS);
    expect(await this.reached()).toEqual(['b', 'c', 'd']);
    // Silence is noticed by the time that a watch was to last, which is five to ten minutes.
    const { sources } = await statusOf(this.agent.adminSocket);
    if (how === 'closed') expect(sources.every(({ failures }) => failures > 0)).toBe(true);
    await this.serve(5000, 'a');
    await expect.poll(() => this.reached(), BACK).toEqual(['a', 'b', 'c', 'd']);
    expect((await world.stop()).join('\n')).toBe('');
    await this.agent.stop('SIGKILL');
    this.agent = this.#start();
    await this.agent.ready();
    const [{ operations } = {}] = logged(this.agent.text, 'the kernel holds the full state');
    expect(operations).toBeLessThanOrEqual(this.#mode === 'ebpf' ? 1 : 0);
  }

  async end(): Promise<void> {
    await this.world.stop();
    await this.agent.stop('SIGKILL');
    await this.#road.close();
    for (const api of this.#road.apis) await api.close();
    this.world.remove();
  }
}

root.describe('ten minutes without an API server', () => {
  const all: Outage[] = [];
  beforeAll(buildProgram);
  afterAll(async () => {
    for (const one of all) await one.end();
  });

  test(
    'nothing is lost, and what has changed is followed',
    async () => {
      all.push(await Outage.begin('nft', 'tmn'));
      all.push(await Outage.begin('ebpf', 'tme'));
      await Promise.all([all[0]!.play('silent'), all[1]!.play('closed')]);
    },
    GONE_MS + 10 * MINUTE_MS,
  );
});
