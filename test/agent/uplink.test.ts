/** What carries a node's traffic goes away under open connections, and comes back: they stall, and go on. */
import { readdirSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { bpfNative } from '../../src/dataplane/ebpf/native.ts';
import { isLong } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually, logged } from './support/node.ts';
import { expectSound, NO_CLOCK } from './support/sound.ts';

const root = skipUnless(
  isLong && privilege() === 'root',
  'takes long; TRIPLANE_TEST_LONG=1 runs it, as root',
);
/**
 * The kernel forgets what it masquerades through a device that goes down (nf_nat_masquerade.c, masq_device_event()),
 * whoever's rule it was: those connections are lost in nft mode, as with kube-proxy, and not in ebpf mode.
 */
const MASQUERADED = /, (node to|client to a NodePort|backend to its own)/;
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

root.describe('the uplink and its programs', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'upl', families: [4] });
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
  });
  afterAll(() => world?.remove());

  const ip = async (...args: string[]) => (await world.node.exec(['ip', ...args])).stdout.trim();
  /** From every side. */
  async function expectServed(): Promise<void> {
    for (const { title, from, address, port } of world.ways(4))
      await eventually(async () => {
        const { outcomes } = await from.call('tcp', address, port, { count: 4, timeoutMs: 4000 });
        return `${title}: ${outcomes.ok}`;
      }).toBe(`${title}: 4`);
  }

  for (const mode of ['nft', 'ebpf'] as const) {
    test(`${mode}: the uplink goes down and up`, async () => {
      await world.startAgent(mode, NO_CLOCK);
      await world.open(2, { datagrams: 0 });
      const routes = (await ip('route', 'show', 'dev', 'eth0'))
        .split('\n')
        .filter((one) => !one.includes('proto kernel'));
      for (let n = 0; n < 2; n++) {
        await ip('link', 'set', 'eth0', 'down');
        await flow(1000);
        await ip('link', 'set', 'eth0', 'up');
        for (const route of routes) await ip('route', 'replace', ...route.trim().split(/\s+/), 'dev', 'eth0');
        await flow(1000);
      }
      await expectServed();
      const lost = (await world.stop()).filter((line) => mode !== 'nft' || !MASQUERADED.test(line));
      expect(lost.join('\n')).toBe('');
      await expectSound(world, mode);
    });
  }

  // Connections that send meanwhile meet peers that know nothing of them: this fault is itself the loss.
  test('ebpf: somebody detaches every program; they are back at the next comparison', async () => {
    await world.startAgent('ebpf', ['--sync-period', '1s']);
    const folder = `/sys/fs/bpf/${readdirSync('/sys/fs/bpf').find((name) => name.includes(world.lab.name))}`;
    const repairs = () => logged(world.agent.log(), 'the kernel differed from what was applied').length;
    for (let n = 1; n <= 2; n++) {
      const generation = readdirSync(folder).find((name) => /^g\d+$/.test(name));
      for (const name of readdirSync(`${folder}/${generation}/links`)) {
        const fd = bpfNative().bpfGet(`${folder}/${generation}/links/${name}`);
        bpfNative().bpfLinkDetach(fd);
        bpfNative().bpfClose(fd);
      }
      await eventually(repairs).toBeGreaterThanOrEqual(n);
    }
    await expectServed();
    await expectSound(world, 'ebpf');
  });
});
