/** The device of service addresses by itself, on any kernel: what it holds, and whether it hears of others. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IPVS_TABLE } from '../../src/dataplane/ipvs/scheme.ts';
import { ServiceDevice } from '../../src/dataplane/ipvs/service-device.ts';
import { skeletonText } from '../../src/dataplane/ipvs/skeleton.ts';
import { type NftSocket, openNftSocket } from '../../src/dataplane/nft/native.ts';
import { applySkeleton } from '../../src/dataplane/nft/skeleton-loader.ts';
import { SERVICE_LINK } from '../../src/node/service-link.ts';
import { ip } from '../model/world.ts';
import { type Bare, bareNamespaces } from '../support/namespaces.ts';
import { runIn } from '../support/node-world.ts';
import { NODE } from '../support/web.ts';

const ADDRESSES = ['10.200.1.10', '10.200.1.11', 'fd00:10:200::10'].map(ip);
/** Notifications come in the order of the changes: after this one no earlier one is under way. */
const QUIET_MS = 200;

describe('the device of service addresses', () => {
  let bare: Bare;
  let socket: NftSocket;
  let device: ServiceDevice;
  let taken = 0;

  const run = (...command: readonly string[]) => runIn(bare.names[0]!, command);

  beforeEach(async () => {
    bare = await bareNamespaces(1);
    const netns = bare.paths[0]!;
    await run('ip', 'link', 'set', 'lo', 'up');
    const families = [4, 6] as const;
    await applySkeleton(families.map((f) => skeletonText(IPVS_TABLE, f, NODE.detector)).join(''), netns);
    socket = openNftSocket(netns);
    device = new ServiceDevice(netns, socket);
    await device.read();
    await device.add(ADDRESSES);
    taken = 0;
    device.watch(() => {
      taken++;
    });
  });
  afterEach(() => {
    device?.close();
    socket?.close();
    bare?.remove();
  });

  const quiet = () => new Promise((resolve) => setTimeout(resolve, QUIET_MS));

  test('what it does itself it does not hear of', async () => {
    const more = ip('10.200.1.12');
    await device.add([more]);
    await device.remove([more, ADDRESSES[0]!]);
    await device.add([ADDRESSES[0]!]);
    await device.read();
    await quiet();
    expect(taken).toBe(0);
    expect(device.differences(new Set(ADDRESSES))).toEqual([]);
  });

  test('nor of what others do elsewhere', async () => {
    await run('ip', 'addr', 'add', '10.200.1.10/32', 'dev', 'lo');
    await run('ip', 'addr', 'del', '10.200.1.10/32', 'dev', 'lo');
    await run('ip', 'link', 'set', 'lo', 'down');
    await quiet();
    expect(taken).toBe(0);
  });

  test.for([
    ['an address is removed', ['ip', 'addr', 'del', '10.200.1.11/32', 'dev', SERVICE_LINK]],
    ['an IPv6 address is removed', ['ip', 'addr', 'del', 'fd00:10:200::10/128', 'dev', SERVICE_LINK]],
    ['all addresses are removed', ['ip', 'addr', 'flush', 'dev', SERVICE_LINK]],
    ['it is set down', ['ip', 'link', 'set', SERVICE_LINK, 'down']],
    ['it is deleted', ['ip', 'link', 'del', SERVICE_LINK]],
  ] as const)('%s: it hears of it, and brings back what was there', async ([, command]) => {
    expect(await run(...command)).toMatchObject({ status: 0 });
    await expect.poll(() => taken).toBeGreaterThan(0);
    await device.read();
    await device.add(ADDRESSES);
    await device.read();
    expect(device.differences(new Set(ADDRESSES))).toEqual([]);
    const { stdout } = await run('ip', '-o', 'route', 'show', 'table', 'local');
    expect(stdout).toContain('local 10.200.1.10 ');
    expect((await run('ip', '-6', 'route', 'show', 'table', 'local')).stdout).toContain(
      'local fd00:10:200::10 ',
    );
  });
});
