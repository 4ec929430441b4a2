/** How an agent begins, ends, is killed, is disturbed and is refused; traffic is to notice none of it. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { UDP_PORT, udpObjects, WEB_PORT, webService, webSlices } from '../../src/lab/examples.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { sliceObjects } from '../../src/lab/manifests.ts';
import { netnsPath } from '../../src/lab/paths.ts';
import type { Load } from '../../src/lab/place.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import { parseAddress } from '../../src/model/address.ts';
import { type Flow, listFlows } from '../../src/node/conntrack.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import {
  buildProgram,
  eventually,
  healthz,
  kernel,
  logged,
  PROGRAM,
  statusOf,
  triplane,
} from './support/node.ts';

const FULL = 'the kernel holds the full state';
const WEB = serviceAddress(4, 10);

kernel.describe('the life of an agent', () => {
  let lab: Lab;
  beforeAll(async () => {
    buildProgram();
    lab = await createLab({
      name: `life-agent-${process.pid}`,
      nodes: [{ name: 'cp' }, { name: 'worker1' }],
      pods: [
        { name: 'net-pod', node: 'cp' },
        ...['webpod1', 'webpod2', 'webpod3'].map((name) => ({
          name,
          node: 'worker1',
          labels: { app: 'web' },
        })),
      ],
    });
    writeWeb();
  });
  afterEach(async () => {
    for (const agent of lab.agents.values()) if (agent.alive()) await agent.stop('SIGKILL');
    await triplane(lab.node('cp'), 'cleanup');
    await triplane(lab.node('worker1'), 'cleanup');
    writeWeb();
  });
  afterAll(() => lab?.down());

  function writeWeb(...pods: readonly string[]): void {
    const chosen = lab.plan.pods.filter(
      ({ name }) => name.startsWith('webpod') && (!pods.length || pods.includes(name)),
    );
    lab.manifests.write('web', [webService(lab), ...webSlices(lab, chosen)]);
  }

  const ask = async () => (await lab.pod('net-pod').ask('tcp', WEB, WEB_PORT, { timeoutMs: 1000 })).outcome;
  const load = (): Promise<Load> =>
    lab.pod('net-pod').load('tcp', WEB, WEB_PORT, { concurrency: 4, timeoutMs: 8000, intervalMs: 50 });
  const fullStates = (agent: { log(): string }) => logged(agent.log(), FULL);

  /** A command that is to fail: one sentence on standard error that holds these words, exit code 1. */
  async function expectSentence(command: readonly string[], code: string, words: RegExp): Promise<void> {
    const { status, stderr } = await lab.node('cp').exec(command);
    const sentences = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('{'));
    expect(sentences).toHaveLength(1);
    expect(sentences[0]).toMatch(/^triplane: /);
    expect(sentences[0]).toContain(code);
    expect(sentences[0]).toMatch(words);
    expect(status).toBe(1);
  }

  const run = (...args: string[]) => [
    ...PROGRAM,
    'run',
    ...[
      '--hostname-override',
      'cp',
      '--admin-socket',
      path.join(path.dirname(lab.manifests.path), 'other.sock'),
      // What is missing here is nft's; ebpf, which auto takes first, would do without it.
      ...['--proxy-mode', 'nft'],
    ],
    ...args,
  ];

  test('SIGTERM leaves the rules; a restart onto what is there changes nothing and loses nothing', async () => {
    const first = await lab.startAgent('cp');
    expect(fullStates(first)[0]!.operations).toBeGreaterThan(0);
    const running = await load();
    await first.stop('SIGTERM');
    expect(first.alive()).toBe(false);
    expect(await ask()).toBe('ok');
    const logBefore = first.log().length;
    const second = await lab.startAgent('cp');
    const again = logged(second.log().slice(logBefore), FULL);
    expect(again).toMatchObject([{ operations: 0, refusals: 0 }]);
    const summary = await running.stop();
    expect(running.failures).toEqual([]);
    expect(summary.outcomes.ok).toBe(summary.total);
  });

  test('SIGKILL in the middle of changes and a new start lose no connection', async () => {
    let agent = await lab.startAgent('cp');
    const running = await load();
    const choices = [['webpod1'], ['webpod2', 'webpod3'], ['webpod1', 'webpod2', 'webpod3'], ['webpod3']];
    for (let round = 0; round < 3; round++) {
      for (let n = 0; n < 6; n++) {
        writeWeb(...choices[n % choices.length]!);
        await sleep(130 + 17 * n);
      }
      await agent.stop('SIGKILL');
      writeWeb(...choices[round]!);
      agent = await lab.startAgent('cp');
    }
    const last = choices[2]!;
    const summary = await running.stop();
    expect(running.failures).toEqual([]);
    expect(summary.outcomes.ok).toBe(summary.total);
    const result = await lab.pod('net-pod').call('tcp', WEB, WEB_PORT, { count: 100, concurrency: 4 });
    expect(Object.keys(result.pods).sort()).toEqual(last);
  });

  test('a UDP client whose backend went while no agent ran moves on at the next start', async () => {
    const [service] = udpObjects(lab);
    const endpoints = (...names: readonly string[]) =>
      sliceObjects({
        ...{ service: 'dns', families: lab.plan.families, ports: [{ port: 80, protocol: 'UDP' as const }] },
        endpoints: lab.plan.pods.filter(({ name }) => names.includes(name)),
      });
    lab.manifests.write('dns', [service!, ...endpoints('webpod1')]);
    const agent = await lab.startAgent('cp');
    const hold = await lab
      .pod('net-pod')
      .hold('udp', serviceAddress(4, 11), UDP_PORT, { intervalMs: 20, timeoutMs: 2000 });
    expect(await hold.established).toMatchObject({ pods: { webpod1: 1 } });
    await agent.stop('SIGKILL');
    lab.manifests.write('dns', [service!, ...endpoints('webpod2')]);
    await lab.startAgent('cp');
    await eventually(() => hold.failures.length).toBe(1);
    expect(hold.failures[0]).toMatchObject({ name: 'webpod1', detail: 'webpod2' });
    expect(await hold.stop()).toMatchObject({ moved: 1, outcomes: { ok: 1 } });
    lab.manifests.remove('dns');
  });

  test('one agent a network namespace: the second is told whom it meets', async () => {
    const first = await lab.startAgent('cp');
    await expectSentence(
      run('--manifests', lab.manifests.path),
      'TP_LOCKED',
      new RegExp(`\\b${first.id.pid}\\b`),
    );
    // Another namespace is another node.
    const other = await lab.startAgent('worker1');
    expect([first.alive(), other.alive()]).toEqual([true, true]);
    // The lock goes with its holder, however that ends.
    await first.stop('SIGKILL');
    expect((await lab.startAgent('cp')).alive()).toBe(true);
  });

  test('cleanup removes everything and does so twice', async () => {
    await (await lab.startAgent('cp')).stop();
    expect(await ask()).toBe('ok');
    const node = lab.node('cp');
    const first = await triplane(node, 'cleanup');
    expect(first).toMatchObject({ status: 0, stdout: expect.stringContaining('removed') });
    expect((await node.exec(['nft', 'list', 'tables'])).stdout).not.toContain('triplane');
    expect(await triplane(node, 'cleanup')).toMatchObject({
      status: 0,
      stdout: 'there was nothing to remove\n',
    });
    expect(await ask()).not.toBe('ok');
  });

  test.each([
    { title: 'its elements', command: ['nft', 'flush', 'map', 'ip', 'triplane', 'services'] },
    { title: 'its rules', command: ['nft', 'flush', 'table', 'ip', 'triplane'] },
    { title: 'the table', command: ['nft', 'delete', 'table', 'ip', 'triplane'] },
    { title: 'everything', command: ['nft', 'flush', 'ruleset'] },
  ])('somebody empties $title under load: traffic comes back', async ({ command }) => {
    const netns = netnsPath(lab.node('cp').namespace);
    const destination = { address: parseAddress(WEB)!, port: WEB_PORT };
    const agent = await lab.startAgent('cp', { args: ['--sync-period', '1h'] });
    const running = await lab.pod('net-pod').load('tcp', WEB, WEB_PORT, { concurrency: 4, timeoutMs: 300 });
    expect(await lab.node('cp').exec(command)).toMatchObject({ status: 0, stderr: '' });
    await eventually(() => logged(agent.log(), 'repaired').length).toBeGreaterThan(0);
    await eventually(ask).toBe('ok');
    const summary = await running.stop();
    expect(summary.outcomes.ok).toBeGreaterThan(0);
    // A SYN that left untranslated meanwhile would lead the next one from its port astray for two minutes.
    await eventually(async () => {
      const strays: Flow[] = [];
      for await (const flows of listFlows({ protocol: 'TCP', destination }, netns))
        strays.push(...flows.filter((flow) => !flow.destinationTranslated));
      return strays;
    }).toEqual([]);
    const after = await lab
      .pod('net-pod')
      .call('tcp', WEB, WEB_PORT, { count: 1000, concurrency: 4, timeoutMs: 8000 });
    expect({ ...after.outcomes, requests: after.requests }).toMatchObject({ ok: 1000, requests: [] });
    expect(await healthz(lab.node('cp'))).toBe(200);
  });

  test('manifests need not name this node: /healthz is 200 all the same', async () => {
    const agent = await lab.startAgent('cp', { args: ['--hostname-override', 'nobody-knows-me'] });
    expect(await healthz(lab.node('cp'))).toBe(200);
    expect((await statusOf(agent.adminSocket)).synced).toBe(true);
    expect(await ask()).toBe('ok');
  });

  test('manifests that are not there end the run with one sentence, and leave what works', async () => {
    await (await lab.startAgent('cp')).stop();
    await expectSentence(
      run('--manifests', '/nowhere/at/all'),
      'TP_BAD_MANIFEST',
      /\/nowhere\/at\/all: does not exist/,
    );
    expect(await ask()).toBe('ok');
  });

  const expectNoPrivilege = (before: readonly string[]) =>
    expectSentence(
      [...before, ...run('--manifests', lab.manifests.path)],
      'TP_NO_PRIVILEGE',
      /CAP_NET_ADMIN/,
    );

  test.each([
    { title: 'root without capabilities', before: ['setpriv', '--bounding-set=-all', '--inh-caps=-all'] },
    {
      title: 'root without CAP_NET_ADMIN',
      before: ['setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin'],
    },
  ])('without privilege ($title) it ends with one sentence', ({ before }) => expectNoPrivilege(before));

  skipUnless(privilege() === 'root', 'a user namespace has no other user').test(
    'without privilege (nobody) it ends with one sentence',
    async () => {
      const nobody = ['runuser', '-u', 'nobody', '--'];
      await expectNoPrivilege(nobody);
      // Nor does a socket's folder that nobody may make come before that.
      const flags = [
        '--manifests',
        lab.manifests.path,
        '--admin-socket',
        `/run/triplane-no-${process.pid}/s`,
      ];
      await expectSentence([...nobody, ...run(...flags)], 'TP_NO_PRIVILEGE', /CAP_NET_ADMIN/);
    },
  );

  test('without libnftables it ends with one sentence, also without a restart from outside', async () => {
    const folder = path.join(path.dirname(lab.manifests.path), 'no-library');
    mkdirSync(folder, { recursive: true });
    writeFileSync(path.join(folder, 'libnftables.so.1'), '');
    try {
      const command = ['env', `LD_LIBRARY_PATH=${folder}`, ...run('--manifests', lab.manifests.path)];
      await expectSentence(command, 'TP_NO_LIBRARY', /libnftables1/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('the log says what happens and holds no trace of a stack', async () => {
    const agent = await lab.startAgent('cp');
    writeWeb('webpod2');
    await eventually(async () =>
      Object.keys((await lab.pod('net-pod').call('tcp', WEB, WEB_PORT, { count: 20 })).pods),
    ).toEqual(['webpod2']);
    await agent.stop('SIGTERM');
    const text = readFileSync(agent.logFile, 'utf8');
    expect(logged(text, 'ending').at(-1)).toMatchObject({ signal: 'SIGTERM' });
    expect(text).not.toMatch(/\bat .*\(.*:\d+:\d+\)/);
  });
});
