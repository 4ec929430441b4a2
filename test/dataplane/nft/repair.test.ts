/** What others do to our tables, and what a killed agent leaves behind. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cleanupNft } from '../../../src/dataplane/nft/cleanup.ts';
import { NftDataplane } from '../../../src/dataplane/nft/nft-dataplane.ts';
import { readNft } from '../../../src/dataplane/nft/readback.ts';
import { skeletonText } from '../../../src/dataplane/nft/skeleton.ts';
import type { DesiredState } from '../../../src/model/desired.ts';
import { BACKENDS_MAX } from '../../../src/model/endpoints.ts';
import { changeBetween, stateOf } from '../../support/desired.ts';
import { type Bare, bareNamespaces } from '../../support/namespaces.ts';
import { tableLines } from '../../support/nft-table.ts';
import { runIn } from '../../support/node-world.ts';
import { mayChangeNetworks } from '../../support/privilege.ts';
import { skipUnless } from '../../support/skip.ts';
import { NODE, web } from '../../support/web.ts';

const networks = skipUnless(mayChangeNetworks(), 'needs root or an unprivileged user namespace');

const A = ['10.10.1.1 80', '10.10.2.2 80', '10.10.2.3 80'];
const A6 = ['fd00:10:10:1::1 80', 'fd00:10:10:2::2 80'];
const STATE = stateOf([web(10, A), web(11, A, 60), web(12, []), web(16, A6, 60)], NODE);

networks.describe('nft, others at our tables', () => {
  let bare: Bare;
  let netns: string;
  let dataplane: NftDataplane;
  let told = 0;

  beforeEach(async () => {
    bare = await bareNamespaces(1);
    netns = bare.paths[0]!;
    told = 0;
    dataplane = new NftDataplane({ netns, onForeignChange: () => told++ });
  });
  afterEach(async () => {
    await dataplane.close();
    bare.remove();
  });

  async function nft(text: string): Promise<string> {
    const { status, stdout, stderr } = await runIn(bare.names[0]!, ['nft', '-f', '-'], `${text}\n`);
    if (status !== 0) throw new Error(stderr);
    return stdout;
  }

  async function expectRepaired(state: DesiredState): Promise<void> {
    expect(await dataplane.survey()).toBe(false);
    expect((await dataplane.verify(state)).repaired).not.toEqual([]);
    expect((await dataplane.verify(state)).repaired).toEqual([]);
    expect(await dataplane.survey()).toBe(true);
  }

  test.each([
    ['the ruleset is flushed', 'flush ruleset'],
    ['a table is deleted', 'delete table ip6 triplane'],
    ['a table is flushed', 'flush table ip triplane'],
    ['a chain is flushed', 'flush chain ip triplane nat-output'],
    ['a pick chain is flushed', 'flush chain ip triplane pick-3'],
    ['a map is flushed', 'flush map ip triplane members'],
    ['the list of source ranges is flushed', 'flush chain ip6 triplane guard-check'],
    ['an element is removed', 'delete element ip triplane services { 10.200.1.10 . tcp . 9000 }'],
    ['an element is added', 'add element ip triplane unanswered { 10.200.1.99 . tcp . 1 }'],
    ['a range is added', 'add element ip triplane pods { 172.16.0.0/12 }'],
    ['a range is removed', 'delete element ip triplane pods { 10.10.0.0/16 }'],
    ['a rule is added', 'add rule ip triplane translate counter'],
    ['a rule is inserted in a pick chain', 'insert rule ip triplane pick-3 drop'],
    ['a chain is added', 'add chain ip triplane pick-77'],
    ['a table is put to sleep', 'add table ip triplane { flags dormant; }'],
  ])('repairs it when %s', async (_what, command) => {
    await dataplane.start(STATE);
    const before = await tableLines(netns);
    await nft(command);
    await expect.poll(() => told).toBeGreaterThan(0);
    await expectRepaired(STATE);
    expect(await tableLines(netns)).toEqual(before);
  });

  test('a ruleset that is flushed while we look is a difference and no failure', async () => {
    await dataplane.start(STATE);
    const before = await tableLines(netns);
    for (let round = 0; round < 8; round++) {
      let isFlushed = false;
      const flush = nft('flush ruleset').finally(() => {
        isFlushed = true;
      });
      const looks: string[] = [];
      while (!isFlushed || looks.length === 0) looks.push(...(await dataplane.verify(STATE)).repaired);
      await flush;
      expect((await dataplane.verify(STATE)).repaired).toEqual([]);
      expect(await tableLines(netns)).toEqual(before);
    }
  });

  test('a ruleset that is flushed during a start is built, and no failure', async () => {
    await dataplane.start(STATE);
    const before = await tableLines(netns);
    for (let round = 0; round < 8; round++) {
      let isFlushed = false;
      const flush = nft('flush ruleset').finally(() => {
        isFlushed = true;
      });
      while (!isFlushed) expect((await dataplane.start(STATE)).refusals).toEqual([]);
      await flush;
      expect((await dataplane.verify(STATE)).repaired.length).toBeLessThanOrEqual(2);
      expect((await dataplane.verify(STATE)).repaired).toEqual([]);
      expect(await tableLines(netns)).toEqual(before);
    }
  });

  test('a survey holds up no change, is not deceived by changes, and sees what somebody else does meanwhile', async () => {
    const many = Array.from({ length: 250 }, (_, n) => web(n, A, n % 3 ? 0 : 60));
    let state = stateOf(many, NODE);
    await dataplane.start(state);
    const change = async (n: number) => {
      const next = stateOf(many.with(n % many.length, web(n % many.length, A.slice(n % 3))), NODE);
      await dataplane.apply(changeBetween(state, next), next);
      state = next;
    };
    let changes = 0;
    for (let round = 0; round < 10; round++) {
      let isOver = false;
      const survey = dataplane.survey().finally(() => {
        isOver = true;
      });
      for (; !isOver; await sleep(round)) await change(changes++);
      // Of changes without any pause, some shares may never be seen between two.
      if (round > 0) expect(await survey).toBe(true);
      expect(await dataplane.survey()).toBe(true);
    }
    // One in each round would be one that had to wait.
    expect(changes).toBeGreaterThan(15);
    await nft('add element ip triplane unanswered { 10.200.1.99 . tcp . 1 }');
    let isOver = false;
    const survey = dataplane.survey().finally(() => {
      isOver = true;
    });
    while (!isOver) await change(changes++);
    expect(await survey).toBe(false);
    await expectRepaired(state);
  });

  test('a survey of tables that go, or are made anew, says no and fails nobody', async () => {
    await dataplane.start(STATE);
    const other = { ...NODE, detector: { by: 'bridge' as const, name: 'cni0' } };
    for (let round = 0; round < 6; round++) {
      const survey = dataplane.survey();
      const node = round % 2 ? NODE : other;
      const state = stateOf([...STATE.services.values()], node);
      await dataplane.apply({ set: [], remove: [], node }, state);
      expect(await survey).toBeTypeOf('boolean');
      expect(await dataplane.survey()).toBe(true);
    }
    const survey = dataplane.survey();
    await nft('flush ruleset');
    expect(await survey).toBeTypeOf('boolean');
    expect(await dataplane.survey()).toBe(false);
    const last = dataplane.survey();
    await dataplane.close();
    expect(await last).toBe(false);
  });

  test('the largest pool there is, with affinity, is written', async () => {
    const backends = Array.from({ length: BACKENDS_MAX }, (_, i) => `10.60.${i >> 8}.${i & 255} 80`);
    const { key, ports } = web(10, backends, 60);
    const state = stateOf([{ key, ports: ports.slice(0, 1) }, web(11, A)], NODE);
    const { refusals } = await dataplane.start(state);
    expect((await dataplane.verify(state)).repaired).toEqual([]);
    // In a user namespace the kernel takes less at once: then it is refused, and alone.
    const roomy = dataplane.tables()[0]!.socket.sendBufferBytes() > 8 << 20;
    expect(refusals.map(({ service }) => service)).toEqual(roomy ? [] : ['test/web-10']);
    expect((await readNft(netns)).services.some(({ service }) => service === 'test/web-11:tcp')).toBe(true);
  });

  test('a change that is larger than can be sent at once holds up nobody else, and comes later if it fits alone', async () => {
    await dataplane.start(stateOf([], NODE));
    const { socket } = dataplane.tables()[0]!;
    const commit = socket.commit.bind(socket);
    const bytesMax = 40_000;
    const small: typeof socket.commit = (family, table, layouts, operations, single) =>
      operations.length > bytesMax
        ? Promise.resolve({
            errno: 'EMSGSIZE',
            refused: [],
            sums: { places: new Uint32Array(0), sums: new BigUint64Array(0) },
          })
        : commit(family, table, layouts, operations, single);
    Object.defineProperty(socket, 'commit', { value: small });
    const backends = (second: number, count: number) =>
      Array.from({ length: count }, (_, i) => `10.${second}.${i >> 8}.${i & 255} 80`);
    const fits = web(10, backends(60, 80));
    const never = web(11, backends(61, 800));
    const others = [web(12, A), web(13, backends(62, 60)), web(14, backends(63, 60)), web(15, A)];
    const state = stateOf([never, fits, ...others], NODE);
    const { refusals } = await dataplane.apply({ set: [...state.services.values()], remove: [] }, state);
    const refused = refusals.map(({ service }) => service);
    expect(refused).toContain('test/web-11');
    expect(refusals[0]!.reason).toMatch(/EMSGSIZE.*net\.core\.wmem_max/);
    const held = async () =>
      new Set((await readNft(netns)).services.map(({ service }) => service.split(':')[0]));
    for (const { key } of others) if (!refused.includes(key)) expect(await held()).toContain(key);
    const again = state.services.get('test/web-10')!;
    expect((await dataplane.apply({ set: [again], remove: [] }, state)).refusals).toEqual([]);
    expect(await held()).toContain('test/web-10');
    expect(await held()).not.toContain('test/web-11');
  });

  test('our own changes are no news, but for a look after those that we made deaf', async () => {
    await dataplane.start(STATE);
    expect(told).toBe(1);
    told = 0;
    const next = stateOf([web(10, A.slice(1))], NODE);
    await dataplane.apply(changeBetween(STATE, next), next);
    await dataplane.verify(next);
    await nft('add table ip somebody-else');
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(told).toBe(0);
  });

  test('an element that stands in the way holds up nobody else', async () => {
    await dataplane.start(STATE);
    await nft('add element ip triplane services { 10.200.1.30 . tcp . 9000 : 0.0.9.9 }');
    const next = stateOf([...STATE.services.values(), web(30, A), web(31, A)], NODE);
    const { refusals } = await dataplane.apply(changeBetween(STATE, next), next);
    expect(refusals.map(({ service }) => service)).toEqual(['test/web-30']);
    const held = new Set((await readNft(netns)).services.map(({ service }) => service));
    expect(held.has('test/web-31:tcp')).toBe(true);
    await expectRepaired(next);
    await dataplane.close();
    dataplane = new NftDataplane({ netns });
    expect((await dataplane.start(next)).operations).toBe(0);
  });

  test.each([
    ['an empty one', 'add table ip triplane-next'],
    ['one asleep', skeletonText('triplane-next', 4, NODE.detector)],
    ['one awake', skeletonText('triplane-next', 4, NODE.detector).replace('  flags dormant;\n', '')],
  ])('a table under construction is cleaned up: %s', async (_what, text) => {
    for (const first of ['beside a whole table', 'alone']) {
      await cleanupNft(netns);
      if (first !== 'alone') await dataplane.start(STATE);
      await nft(text);
      await dataplane.start(STATE);
      const { stdout } = await runIn(bare.names[0]!, ['nft', 'list', 'tables']);
      expect(stdout.trim().split('\n').sort()).toEqual(['table ip triplane', 'table ip6 triplane']);
      expect((await dataplane.verify(STATE)).repaired).toEqual([]);
    }
  });

  test('nft lists everything, and names services', async () => {
    await dataplane.start(STATE);
    for (const family of ['ip', 'ip6']) {
      const { status, stdout } = await runIn(bare.names[0]!, ['nft', 'list', 'table', family, 'triplane']);
      expect(status).toBe(0);
      expect(stdout).toContain('ClusterIP test/web-1');
      expect(stdout).toContain('sticky-');
    }
    expect(await cleanupNft(netns)).toEqual(['ip triplane', 'ip6 triplane']);
    expect(await cleanupNft(netns)).toEqual([]);
  });
});
