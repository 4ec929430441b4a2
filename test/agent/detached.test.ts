/**
 * ebpf: somebody detaches our programs under open connections and new ones. What those programs carried is lost until the
 * next comparison has them back, and nothing else; what sockets did meanwhile, packets do.
 */
import { readdirSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { bpfNative } from '../../src/dataplane/ebpf/native.ts';
import { LONG } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { Newcomers } from './support/newcomers.ts';
import { buildProgram, eventually, logged, triplane } from './support/node.ts';
import { pins } from './support/round.ts';
import { expectSound } from './support/sound.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const OFTEN = ['--sync-period', '1s'];
/** A socket that is not connected: packets pick a backend by themselves. Nothing of it is lost. */
const MOVED = /, unconnected: (\{\} .*"event":"moved"|\d+ flows went to another backend$)/;
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Whose programs at tc go, and which ways they carry. Packets that pass them as they are reach somebody who knows nothing of
 * the connection: it resets it, or says that there is nobody, or is silent.
 */
const DEVICES = [
  {
    title: "a pod's device",
    device: (world: SwitchWorld) => world.lab.pod('a').plan.device,
    loses: /, pod to a /,
    declare: test,
  },
  {
    title: "a backend's device",
    device: (world: SwitchWorld) => world.lab.pod('b').plan.device,
    // Of what bears the node's address, only connections to this backend: its answers go back through them.
    loses:
      /, backend to its own |, (node to|client to a NodePort).*"name":"b"|, (node to .*|client to a NodePort): (timeout|reset)/,
    declare: LONG.test,
  },
  { title: 'the uplink', device: () => 'eth0', loses: /, node to |, client to a /, declare: LONG.test },
  { title: 'loopback', device: () => 'lo', loses: /, node to its own NodePort/, declare: LONG.test },
] as const;

for (const cgroups of ['none', 'per-pod'] as const)
  root.describe(
    `programs that somebody detaches, ${cgroups === 'none' ? 'of packets' : 'of sockets'}`,
    () => {
      let world: SwitchWorld;
      beforeAll(async () => {
        buildProgram();
        world = await SwitchWorld.create({ label: 'det', families: [4], cgroups });
      });
      afterEach(async () => {
        await world.stop();
        await world.agent?.stop('SIGKILL');
        await triplane(world.node, 'cleanup');
      });
      afterAll(() => world?.remove());

      const repairs = () => logged(world.agent.log(), 'the kernel differed from what was applied').length;

      /** @returns how many there were */
      function detach(which: (name: string) => boolean): number {
        const folder = `/sys/fs/bpf/${pins(world)[0]}`;
        const links = `${folder}/${readdirSync(folder).find((name) => /^g\d+$/.test(name))}/links`;
        const names = readdirSync(links).filter(which);
        for (const name of names) {
          const fd = bpfNative().bpfGet(`${links}/${name}`);
          bpfNative().bpfLinkDetach(fd);
          bpfNative().bpfClose(fd);
        }
        return names.length;
      }

      async function play(which: (name: string) => boolean, count: number, loses: RegExp): Promise<void> {
        await world.open(2);
        const newcomers = await Newcomers.start(world, 5);
        for (let n = 0; n < 2; n++) {
          const before = repairs();
          await newcomers.during(loses, async () => {
            expect(detach(which)).toBe(count);
            await eventually(repairs).toBeGreaterThan(before);
          });
          await flow(500);
        }
        const lost = [...(await newcomers.stop()), ...(await world.stop())];
        expect(lost.filter((line) => !loses.test(line)).join('\n')).toBe('');
        await expectSound(world, 'ebpf', OFTEN);
      }

      if (cgroups === 'none')
        for (const { title, device, loses, declare } of DEVICES)
          declare(`at tc of ${title}`, async () => {
            await world.startAgent('ebpf', OFTEN);
            const { stdout } = await world.node.exec(['ip', '-j', 'link', 'show', device(world)]);
            const [{ ifindex }] = JSON.parse(stdout);
            const count = title === 'loopback' ? 1 : 2;
            await play((name) => name === `ingress_${ifindex}` || name === `egress_${ifindex}`, count, loses);
          });
      else
        test('at the cgroup: connections that sockets have are whole, and new ones go by packets', async () => {
          await world.startAgent('ebpf', OFTEN);
          await play((name) => name.startsWith('tp_'), 10, MOVED);
        });
    },
  );
