/**
 * ebpf: the agent is killed with -9 at every store into a map and at every call of the addon that a change makes, under open
 * connections and new ones: none is lost, and the next agent ends the change as a fresh start would have made it.
 */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { serviceObject, sliceObjects } from '../../src/lab/manifests.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import { type FaultPoint, faultEnvironment } from '../support/fault-point.ts';
import { LONG } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { kernelImage } from './support/image.ts';
import { buildProgram, eventually, triplane } from './support/node.ts';

const root = skipUnless(privilege() === 'root', 'needs root');

const APPLIED = 'changes applied';
const ARMED = ['the kernel holds the full state', 'changes of the cluster taken in', 'changes on their way'];
const ARGS = ['--v=3', '--sync-period', '1h', '--bpf-connections-max', '16384'];
const DURATION_MS = 3_500_000;

/** What a change does one after the other: "before" a store the tables are half written; what a call does is under way. */
const STEPS = {
  store: { call: 'Atomics.store', when: 'before' },
  call: { call: '*', when: 'made' },
} as const satisfies Record<string, FaultPoint>;

const CHANGES = ['a service comes', 'it gets a backend and source ranges', 'it goes'] as const;

root.describe('an agent killed at every step of a change', () => {
  let world: SwitchWorld;
  /** What agents make of each state that nobody disturbs. */
  const wanted: unknown[] = [];
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'swp', families: [4], args: ARGS });
    for (const state of CHANGES.keys()) {
      write(state);
      await start();
      wanted.push(await kernelImage(world, 'ebpf'));
    }
    expect(new Set(wanted.map((one) => JSON.stringify(one))).size).toBe(CHANGES.length);
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
  });
  afterAll(async () => {
    if (world) await triplane(world.node, 'cleanup');
    world?.remove();
  });

  /** State n is where change n begins. */
  function write(state: number): void {
    const [b, c] = ['b', 'c'].map((name) => world.lab.pod(name).plan);
    const states = [[], [b!], [b!, c!]];
    const endpoints = states[state % states.length]!;
    const service = serviceObject({
      ...{ name: 'more', clusterIPs: [serviceAddress(4, 88)], type: 'LoadBalancer', affinitySeconds: 60 },
      ports: [{ port: 9000, targetPort: 80, nodePort: 30999 }],
      loadBalancerIPs: ['198.18.8.1'],
      loadBalancerSourceRanges: endpoints.length > 1 ? ['10.0.0.0/8', '192.168.0.0/16'] : [],
    });
    const slices = sliceObjects({ service: 'more', families: [4], ports: [{ port: 80 }], endpoints });
    if (endpoints.length > 0) world.lab.manifests.write('more', [service, ...slices]);
    else world.lab.manifests.remove('more');
  }

  async function start(point: FaultPoint | null = null): Promise<void> {
    await world.agent?.stop('SIGKILL');
    await world.startAgent('ebpf', [], point ? { env: faultEnvironment(point) } : {});
  }

  /** @returns whether the change has so many steps */
  async function killAt(change: number, point: FaultPoint, count: number): Promise<boolean> {
    await world.agent?.stop('SIGKILL');
    write(change);
    await start({ ...point, count, armed: ARMED });
    const before = world.agent.log().length;
    write(change + 1);
    const applied = () => world.agent.log().slice(before).includes(APPLIED);
    await eventually(() => !world.agent.alive() || applied()).toBe(true);
    const met = !applied();
    await start();
    // Source ranges that nobody has any more go a moment later.
    await eventually(() => kernelImage(world, 'ebpf')).toEqual(wanted[(change + 1) % CHANGES.length]);
    return met;
  }

  test('of two changes, half-way', async () => {
    await world.open(1);
    await world.load(3);
    expect(await killAt(1, STEPS.store, 3)).toBe(true);
    expect(await killAt(2, STEPS.store, 3)).toBe(true);
    expect((await world.stop()).join('\n')).toBe('');
  });

  for (const [change, title] of CHANGES.entries())
    for (const [step, point] of Object.entries(STEPS)) {
      // What takes a service away are stores alone.
      if (step === 'call' && change === 2) continue;
      LONG.test(
        `${title}: at each ${step}`,
        async () => {
          await world.open(1, { durationMs: DURATION_MS });
          await world.load(2, 'fin', DURATION_MS);
          let count = 1;
          while (await killAt(change, point, count)) count++;
          expect(count).toBeGreaterThan(1);
          expect((await world.stop()).join('\n')).toBe('');
        },
        DURATION_MS,
      );
    }
});
