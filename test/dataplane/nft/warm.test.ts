/** What is begun before the state is known: the process that loads the skeleton. */
import { readdirSync, readFileSync } from 'node:fs';
import process from 'node:process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { NFPROTO, openNftSocket } from '../../../src/dataplane/nft/native.ts';
import { NftDataplane } from '../../../src/dataplane/nft/nft-dataplane.ts';
import { isNftThere } from '../../../src/dataplane/nft/presence.ts';
import { ip } from '../../model/world.ts';
import { stateOf } from '../../support/desired.ts';
import { type Bare, bareNamespaces } from '../../support/namespaces.ts';
import { tableLines } from '../../support/nft-table.ts';
import { privilege } from '../../support/privilege.ts';
import { skipUnless } from '../../support/skip.ts';
import { NODE, web } from '../../support/web.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const STATE = stateOf([web(10, ['10.10.1.1 80']), web(11, ['fd00:10:10:1::1 80'], 600)], NODE);

/** Processes of ours that wait for a skeleton. */
function waiting(): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      return Number(parent) === process.pid && state !== 'Z' && command.includes('skeleton-child');
    } catch {
      return false;
    }
  });
}

/** Of these, those that have read their library and wait for the text. */
function ready(): string[] {
  return waiting().filter((pid) => readFileSync(`/proc/${pid}/maps`, 'utf8').includes('libnftables'));
}

root.describe('nft, warmed up', () => {
  let bare: Bare;
  beforeEach(async () => {
    bare = await bareNamespaces(2);
  });
  afterEach(() => bare?.remove());

  test('it holds what it holds without, and nobody is left waiting', async () => {
    const lines: string[][] = [];
    for (const [at, netns] of bare.paths.entries()) {
      const dataplane = new NftDataplane({ netns });
      if (at === 0) {
        dataplane.warm();
        await expect.poll(ready, { timeout: 30_000 }).toHaveLength(1);
        expect(await isNftThere(netns)).toBe(false);
      }
      expect((await dataplane.start(STATE)).refusals).toEqual([]);
      lines.push(await tableLines(netns));
      expect(waiting()).toEqual([]);
      await dataplane.close();
    }
    expect(lines[0]!.length).toBeGreaterThan(20);
    expect(lines[0]).toEqual(lines[1]);
  });

  test('nobody is left waiting where it is closed, or has tables that it takes over', async () => {
    const netns = bare.paths[0]!;
    const first = new NftDataplane({ netns });
    first.warm();
    await first.close();
    await expect.poll(waiting).toEqual([]);
    const second = new NftDataplane({ netns });
    await second.start(STATE);
    await second.close();
    const third = new NftDataplane({ netns });
    third.warm();
    expect((await third.start(STATE)).operations).toBe(0);
    expect(waiting()).toEqual([]);
    await third.close();
  });

  test('one that has ended meanwhile is made up for', async () => {
    const dataplane = new NftDataplane({ netns: bare.paths[0]! });
    dataplane.warm();
    await expect.poll(ready, { timeout: 30_000 }).toHaveLength(1);
    process.kill(Number(ready()[0]), 'SIGKILL');
    await expect.poll(waiting).toEqual([]);
    expect((await dataplane.start(STATE)).refusals).toEqual([]);
    await dataplane.close();
  });

  test('before its tables take the first packet, they know the clients that the mode before remembers', async () => {
    const [netns] = bare.paths;
    const sticky = web(10, ['10.10.1.1 80', '10.10.1.2 80'], 600);
    const [{ name, cluster }] = sticky.ports as [(typeof sticky.ports)[number]];
    const views = cluster.map((backend, n) => ({
      ...{ port: name, family: 4 as const, protocol: 'TCP' as const, secondsLeft: 300 },
      ...{ client: ip(`10.10.9.${n + 1}`), backend },
    }));
    // By family: bit 0 says that the table sleeps.
    const seen: number[][] = [];
    const socket = openNftSocket(netns!);
    const flags = async (family: 4 | 6) => (await socket.dumpNames(NFPROTO[family], 'triplane')).tableFlags;
    const dataplane = new NftDataplane({ netns });
    try {
      await dataplane.prepare(stateOf([sticky], NODE), async () => {
        seen.push([await flags(4), await flags(6)]);
        return views;
      });
      expect(seen).toEqual([
        [1, 1],
        [0, 1],
      ]);
      const remembered = (await dataplane.affinities()).map(({ client, backend }) => [
        client,
        backend.address,
      ]);
      expect(remembered.sort()).toEqual(views.map(({ client, backend }) => [client, backend.address]));
    } finally {
      socket.close();
      await dataplane.close();
    }
  });
});
