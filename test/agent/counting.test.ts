/** A running agent's metrics of traffic: through all modes that this kernel has and back, each connection once. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { hasIpvs } from '../support/ipvs.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually } from './support/node.ts';

const root = skipUnless(privilege() === 'root', 'needs root');

root.describe('metrics of traffic', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({
      ...{ label: 'cnt', families: [4], cgroups: 'per-pod' },
      args: ['--traffic-metrics', 'traffic', '--traffic-metrics-by', 'endpoint'],
    });
    await world.startAgent('ebpf');
  });
  afterAll(() => world?.remove());

  /** Of one service's TCP port: what follows the name of the metric and its labels, in order. */
  async function samples(metric: string): Promise<number[]> {
    const { stdout } = await world.node.exec([
      process.execPath,
      '-e',
      `fetch('http://127.0.0.1:10249/metrics').then(async (r) => process.stdout.write(await r.text()))`,
    ]);
    const wanted = new RegExp(`^${metric}\\{namespace="default",service="web",port="tcp".*\\} (\\d+)$`, 'gm');
    return [...stdout.matchAll(wanted)].map(([, value]) => Number(value));
  }
  const sum = (values: readonly number[]) => values.reduce((all, one) => all + one, 0);

  test('a switch is no reset, and what drains counts on', async () => {
    const ways = world.ways(4).filter(({ title }) => !/sticky|Local/.test(title));
    let opened = 0;
    const call = async () => {
      for (const { from, address, port } of ways) {
        const { outcomes } = await from.call('tcp', address, port, { count: 5, concurrency: 2 });
        expect(outcomes).toMatchObject({ ok: 5 });
        opened += 5;
      }
    };
    await call();
    const ipvs = hasIpvs() ? (['ipvs'] as const) : [];
    for (const mode of ['nft', ...ipvs, 'ebpf', 'nft'] as const) {
      expect(await world.switchTo(mode)).toMatchObject({ to: mode });
      await call();
    }
    // What was read less than ten seconds ago is not read again.
    await eventually(() => samples('triplane_service_connections_total')).toEqual([opened]);
    expect(sum(await samples('triplane_endpoint_connections_total'))).toBe(opened);
    const [packetsIn = 0, packetsOut = 0] = await samples('triplane_service_packets_total');
    const [bytesIn = 0, bytesOut = 0] = await samples('triplane_service_bytes_total');
    // SYN, request, FIN; each at least an IP and a TCP header.
    expect(Math.min(packetsIn, packetsOut)).toBeGreaterThanOrEqual(3 * opened);
    expect(bytesIn).toBeGreaterThan(40 * packetsIn);
    expect(bytesOut).toBeGreaterThan(40 * packetsOut);
  });
});
