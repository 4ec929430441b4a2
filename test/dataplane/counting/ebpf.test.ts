import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { expect, test } from 'vitest';
import { cleanupEbpf } from '../../../src/dataplane/ebpf/cleanup.ts';
import { EbpfDataplane } from '../../../src/dataplane/ebpf/ebpf-dataplane.ts';
import type { SocketLb } from '../../../src/dataplane/ebpf/node-settings.ts';
import { cgroupMount } from '../../../src/lab/cgroups.ts';
import { loadNative } from '../../../src/node/native.ts';
import { SMALL } from '../../support/bpf-world.ts';
import { privilege } from '../../support/privilege.ts';
import { skipUnless } from '../../support/skip.ts';
import { web } from '../../support/web.ts';
import { type CountingWorld, expectConnectionsAlone, FOUR, testCounting, WAIT } from './table.ts';

const gate = skipUnless(privilege() === 'root', 'needs root');
/** Few numbers for service ports, so that they come round soon. */
const SIZES = { ...SMALL, frontends: 256 };
const ROOT = `/sys/fs/bpf/tpcount${process.pid}`;
const cgroup = path.join(cgroupMount() ?? '', `triplane-count${process.pid}`);

/** The dataplane works where its thread is. */
const enter = (file: string) => (loadNative() as { netnsEnter(path: string): void }).netnsEnter(file);

function count(socketLb: SocketLb, more?: (ground: CountingWorld) => void): void {
  let home = -1;
  testCounting(
    {
      title: socketLb === 'off' ? 'ebpf by packets' : 'ebpf by sockets and packets',
      gate,
      cgroup,
      // A socket that is closed leaves its last packets to a stand-in of which no program hears (TIME_WAIT).
      unseen: ({ protocol, from }) =>
        socketLb !== 'off' && protocol === 'tcp' && from !== 'outside' ? 2 : 0,
      open(netns, traffic) {
        home = openSync('/proc/self/ns/net', 'r');
        enter(netns);
        return new EbpfDataplane({ root: ROOT, cgroup, socketLb, sizes: SIZES, traffic });
      },
      close() {
        cleanupEbpf(ROOT);
        enter(`/proc/self/fd/${home}`);
        closeSync(home);
      },
    },
    more,
  );
}

count('all', (ground) => {
  test('level connections counts no packet', () => expectConnectionsAlone(ground));
});
count('off', (ground) => {
  test('a number that another service port gets counts from zero, and what its owner before had is told', async () => {
    const dataplane = await ground.start({ level: 'connections', by: 'service' }, [web(10, FOUR)]);
    const call = (host: number, times: number) =>
      ground.world.place('pod').call('tcp', `10.200.1.${host}`, 9000, { count: times });
    const told = new Map<string, number>();
    const read = async () => {
      for (const { cell, port, connections } of await ground.cells())
        told.set(`${port} ${cell}`, connections);
    };
    const of = (name: string) =>
      [...told].reduce((sum, [key, count]) => sum + (key.startsWith(`${name} `) ? count : 0), 0);
    await call(10, 2);
    // Until every number was given out. Those that were given back come round after a grace.
    for (let round = 0; round < SIZES.frontends / 2; round++) {
      await ground.apply([web(10 + (round % 2) * 2, FOUR)]);
    }
    const twelve = async () => {
      await ground.apply([]);
      return ground.apply([web(12, FOUR)]);
    };
    await expect.poll(twelve, WAIT).toEqual([]);
    await read();
    expect([of('test/web-10:tcp'), of('test/web-12:tcp')]).toEqual([2, 0]);
    await call(12, 3);
    await read();
    expect([of('test/web-10:tcp'), of('test/web-12:tcp')]).toEqual([2, 3]);
    expect((await dataplane.verify(ground.state)).repaired).toEqual([]);
  });
});
