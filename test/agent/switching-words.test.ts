/** Who moves a running agent, and what it does where it cannot be moved, all under open connections and new ones. */
import { readdirSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { clusterCidrFlag } from '../../src/lab/wiring.ts';
import { isLong } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { Refusal } from '../support/refusal.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually, OwnAgent, statusOf, triplane } from './support/node.ts';
import { expectDrained, pins } from './support/round.ts';
import { expectSound, NO_CLOCK } from './support/sound.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
/** Traffic of a moment: nothing is waited for. */
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** By so many changes of BPF objects more does each try come further than the one before. */
const STEP = isLong ? 15 : 60;

root.describe('a running agent, under traffic', () => {
  let world: SwitchWorld;
  let refusal: Refusal;
  beforeAll(async () => {
    buildProgram();
    refusal = new Refusal();
    world = await SwitchWorld.create({ label: 'swo' });
  });
  afterEach(async () => {
    refusal.none();
    await world.stop();
    await world.agent?.stop('SIGKILL');
    await triplane(world.node, 'cleanup');
  });
  afterAll(() => {
    world?.remove();
    refusal?.remove();
  });

  async function traffic(): Promise<void> {
    await world.open(2);
    await world.load(4);
  }

  test('the changed configuration file moves it, there and back again', async () => {
    const file = path.join(path.dirname(world.lab.manifests.path), 'config.yaml');
    const configure = (mode: string) => {
      const config = {
        ...{ apiVersion: 'kubeproxy.config.k8s.io/v1alpha1', kind: 'KubeProxyConfiguration', mode },
        clusterCIDR: clusterCidrFlag(world.lab.plan),
      };
      // At once: a file that is half written names no mode.
      writeFileSync(`${file}.next`, stringify(config));
      renameSync(`${file}.next`, file);
    };
    configure('nftables');
    const bpfRoot = ['--bpf-root', `/sys/fs/bpf/${world.lab.name}`];
    const args = ['--config', file, '--manifests', world.lab.manifests.path, ...bpfRoot];
    const agent = new OwnAgent(world.lab, 'n1', args);
    const mode = async () => (await statusOf(agent.adminSocket)).mode;
    try {
      await agent.ready();
      expect((await mode()).mode).toBe('nft');
      await traffic();
      for (const [word, wanted] of [
        ['ebpf', 'ebpf'],
        ['nftables', 'nft'],
      ] as const) {
        await flow(500);
        configure(word);
        await eventually(async () => (await mode()).mode).toBe(wanted);
        await eventually(async () => (await mode()).switching).toBe('');
        expect(await mode()).toMatchObject({ failure: '', reason: 'asked for by the configuration' });
        await flow(800);
      }
      configure('ipvs');
      await eventually(async () => (await mode()).failure).toMatch(/a switch to ipvs failed: .*IPVS/i);
      expect(await mode()).toMatchObject({ mode: 'nft', switching: '' });
      expect(agent.text).toContain('the switch failed; the mode stays as it was');
      await flow(500);
      // What it says there is taken up again.
      configure('ebpf');
      await eventually(async () => (await mode()).mode).toBe('ebpf');
      await flow(800);
      expect((await world.stop()).join('\n')).toBe('');
      expect((await mode()).failure).toBe('');
    } finally {
      await agent.stop('SIGKILL');
    }
  });

  test('the annotation of its Node moves it, and is followed when it goes', async () => {
    await world.startAgent('nft');
    await traffic();
    await world.annotate('ebpf');
    await eventually(async () => (await world.status()).mode.mode).toBe('ebpf');
    expect((await world.status()).mode.reason).toContain('annotation');
    await flow(800);
    await world.annotate(null);
    await eventually(async () => (await world.status()).mode.mode).toBe('nft');
    await flow(800);
    expect((await world.stop()).join('\n')).toBe('');
    await expectDrained(world, 'nft');
  });

  test('the kernel refuses ebpf, each time a little later: nft goes on, says so, and nothing is left of it', async () => {
    await world.startAgent('nft', NO_CLOCK, { env: refusal.environment });
    await traffic();
    const folder = () => pins(world).flatMap((name) => readdirSync(`/sys/fs/bpf/${name}`));
    let passing = 0;
    for (; ; passing += STEP) {
      refusal.begin('bpf', 'ENOMEM', passing);
      const said = await world.switchTo('ebpf').then(
        () => '',
        ({ message }: Error) => message,
      );
      refusal.none();
      if (said === '') break;
      expect([passing, said]).toEqual([passing, expect.stringMatching(/ENOMEM|Cannot allocate memory/)]);
      const { mode } = await world.status();
      expect([passing, mode.mode, mode.switching]).toEqual([passing, 'nft', '']);
      expect(mode.failure).toContain(`a switch to ebpf failed: ${said}`);
      await eventually(async () => (await world.status()).mode.draining).toEqual([]);
      // The empty folder may stay.
      expect([passing, ...folder()]).toEqual([passing]);
      expect((await world.node.exec(['ip', '-d', 'link'])).stdout).not.toContain('xdp');
    }
    expect(passing).toBeGreaterThan(75);
    await flow(800);
    expect((await world.status()).mode).toMatchObject({ mode: 'ebpf', failure: '' });
    expect((await world.stop()).join('\n')).toBe('');
    await expectSound(world, 'ebpf');
  });
});
