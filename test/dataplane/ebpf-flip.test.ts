/** No packet sees a mixed pool: one thread sends packets through the program, another flips pools under them. */
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ticksOf } from '../../src/dataplane/ebpf/clock.ts';
import { Compiler } from '../../src/dataplane/ebpf/compiler.ts';
import { TableMaps } from '../../src/dataplane/ebpf/maps.ts';
import type { DesiredService, Frontend } from '../../src/model/desired.ts';
import { packageRoot } from '../../src/node/native.ts';
import { ip } from '../model/world.ts';
import { loadWorld, NET, SMALL, TestNet, type World } from '../support/bpf-world.ts';
import { hz } from '../support/ebpf-tables.ts';
import { packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const FLIPS = 10_000;

/** Sends datagrams of 2048 flows until told to stop, and counts by verdict and backend. A flow whose backend has
 * left is picked anew, so every flip makes many picks. */
const SENDER = `
const { workerData, parentPort } = require('node:worker_threads');
const native = require(workerData.addon);
native.netnsEnter(workerData.netns);
const stop = new BigUint64Array(native.bpfMapMmap(workerData.stop, 65536 * 8));
const context = new Uint8Array(Uint32Array.of(0, workerData.frame.length, 0, workerData.ifindex, 0, 0).buffer);
const frame = workerData.frame;
const counts = {};
parentPort.postMessage('ready');
for (let i = 0; i < workerData.most && stop[65535] === 0n; i++) {
  frame[34] = 128 + (i >> 8 & 7); frame[35] = i & 255;
  const { verdict, data } = native.bpfTestRun(workerData.program, frame, context, 256, 1);
  const what = verdict + ' ' + data.subarray(30, 34).join('.');
  counts[what] = (counts[what] ?? 0) + 1;
}
parentPort.postMessage(counts);
`;

function service(name: string, address: string, numbers: readonly number[]): DesiredService {
  const frontend: Frontend = {
    ...{ address: ip(address), port: 80, protocol: 'UDP' as const, kind: 'LoadBalancer' as const },
    ...{ inside: 'cluster' as const, outside: 'cluster' as const },
    ...{ masquerade: 'always' as const, sourceRanges: null },
  };
  const cluster = numbers.map((n) => ({ address: ip(NET.backend(4, n)), port: 8080, local: false }));
  const rest = { family: 4, protocol: 'UDP', affinitySeconds: 0, local: [], settings: {} } as const;
  return { key: name, ports: [{ name, cluster, frontends: [frontend], ...rest }] };
}

root.describe('pools', () => {
  let net: TestNet;
  let world: World;
  beforeAll(async () => {
    net = new TestNet('f');
    world = await loadWorld({ hz: hz(), sizes: { ...SMALL, backends: 65_536, connections: 65_536 } });
    world.setDevice(net.device('up0').ifindex, NET.uplink[4], NET.uplink[6]);
    world.setDevice(net.device('dn0').ifindex, NET.downlink[4], NET.downlink[6]);
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });

  test(`flip ${FLIPS} times between disjoint sets, and each packet goes to a member of one`, async () => {
    const ticks = (seconds: number) => ticksOf(seconds, hz());
    const both = new Set([4, 6] as const);
    const rules = { speaks: both, podsKnown: both, xdpForward: 'allowed', ticks } as const;
    const compiler = new Compiler(new TableMaps(world.object.maps(), world.knobs.seed), rules, () =>
      performance.now(),
    );
    const sets = [[2, 3, 4], [5, 6], [7], [2, 3, 4, 5, 6, 7]];
    const bring = (next: DesiredService) =>
      expect(compiler.apply([{ service: next.key, next }]).refusals).toEqual([]);
    bring(service('x/a', '192.0.2.10', sets[0]!));
    const udp = { proto: 'udp', src: NET.client[4], dst: '192.0.2.10', sport: 40_000, dport: 80 } as const;
    const worker = new Worker(SENDER, {
      eval: true,
      workerData: {
        addon: `${packageRoot()}/build/Release/triplane.node`,
        netns: `/run/netns/${net.name}`,
        stop: world.maps.tp_nodeports!.fd,
        frame: packet(udp),
        ifindex: net.device('up0').ifindex,
        program: world.programs.tp_xdp!,
        most: 10_000_000,
      },
    });
    const messages: unknown[] = [];
    worker.on('message', (message) => messages.push(message));
    await expect.poll(() => messages.length).toBe(1);
    for (let i = 0; i < FLIPS; i++) {
      bring(service('x/a', '192.0.2.10', sets[i % sets.length]!));
      // What the other one frees, this one takes: its backends must never be seen through the first.
      bring(service('x/b', '192.0.2.11', i % 2 ? [8, 9] : [9]));
    }
    compiler.maps.nodePorts.longs[65_535] = 1n;
    await expect.poll(() => messages.length, { timeout: 20_000 }).toBe(2);
    const counts = messages[1] as Record<string, number>;
    const allowed = new Set([2, 3, 4, 5, 6, 7].map((n) => `4 ${NET.backend(4, n)}`));
    expect(Object.keys(counts).filter((what) => !allowed.has(what))).toEqual([]);
    expect(Object.keys(counts)).toHaveLength(6);
    expect(Object.values(counts).reduce((sum, n) => sum + n, 0)).toBeGreaterThan(1000);
    await worker.terminate();
  });
});
