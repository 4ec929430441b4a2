/** The device of service addresses by itself, on any kernel: what it holds, and whether it hears of others. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IPVS_TABLE } from '../../src/dataplane/ipvs/scheme.ts';
import { ServiceDevice } from '../../src/dataplane/ipvs/service-device.ts';
import { skeletonText } from '../../src/dataplane/ipvs/skeleton.ts';
import { type NftSocket, openNftSocket } from '../../src/dataplane/nft/native.ts';
import { applySkeleton } from '../../src/dataplane/nft/skeleton-loader.ts';
import { KUBE_PROXY_LINK, SERVICE_LINK } from '../../src/node/service-link.ts';
import { ip } from '../model/world.ts';
import { type Bare, bareNamespaces } from '../support/namespaces.ts';
import { runIn } from '../support/node-world.ts';
import { NODE } from '../support/web.ts';

const ADDRESSES = ['10.200.1.10', '10.200.1.11', 'fd00:10:200::10'].map(ip);
/** Notifications come in the order of the changes: after this one no earlier one is under way. */
const QUIET_MS = 200;
const OURS = ['dev', SERVICE_LINK, 'table', 'local'];

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
    ['a route is removed', ['ip', 'route', 'del', 'local', '10.200.1.11', ...OURS]],
    ['an IPv6 route is removed', ['ip', '-6', 'route', 'del', 'local', 'fd00:10:200::10', ...OURS]],
    ['all routes are removed', ['ip', 'route', 'flush', ...OURS]],
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

  describe('with an uplink', () => {
    const ROAD = [
      ['sysctl', '-q', '-w', 'net.ipv6.conf.all.accept_dad=0', 'net.ipv6.conf.default.accept_dad=0'],
      ['ip', 'link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'far'],
      ['ip', 'link', 'set', 'far', 'up'],
      ['ip', 'link', 'set', 'up0', 'up'],
      ...['192.0.2.9/24', '192.0.2.10/24', 'fd00:2::9/64', 'fd00:2::10/64'].map((address) => [
        ...['ip', 'addr', 'add', address, 'dev', 'up0'],
      ]),
      // Not the address that the kernel would take by itself.
      ['ip', 'route', 'add', 'default', 'via', '192.0.2.1', 'src', '192.0.2.10'],
      ['ip', '-6', 'route', 'add', 'default', 'via', 'fd00:2::1', 'src', 'fd00:2::10'],
    ];
    const LATE = ['10.200.1.20', 'fd00:10:200::20'].map(ip);
    const SOURCES = ['192.0.2.10', 'fd00:2::10'];

    beforeEach(async () => {
      for (const command of ROAD) expect(await run(...command)).toMatchObject({ status: 0 });
      // The first ones of an empty device.
      await device.remove(ADDRESSES);
      await device.add(LATE);
    });

    /** [whether it is local, the source that a socket of the node gets] */
    const toward = async (address: string) => {
      const { stdout } = await run('ip', '-o', 'route', 'get', address);
      return [stdout.startsWith('local '), / src (\S+)/.exec(stdout)?.[1]];
    };

    test('a socket of the node keeps the source that it had', async () => {
      for (const [n, address] of LATE.entries()) expect(await toward(address)).toEqual([true, SOURCES[n]]);
    });

    test('there was no way to it before: it is local all the same', async () => {
      for (const family of ['-4', '-6']) await run('ip', family, 'route', 'del', 'default');
      await device.add(ADDRESSES);
      for (const address of ADDRESSES) expect((await toward(address))[0]).toBe(true);
    });

    test('its source goes: it hears of it, and takes the one there is now', async () => {
      for (const source of ['192.0.2.10/24', 'fd00:2::10/64']) {
        taken = 0;
        expect(await run('ip', 'addr', 'del', source, 'dev', 'up0')).toMatchObject({ status: 0 });
        await expect.poll(() => taken).toBeGreaterThan(0);
      }
      for (const [family, gateway] of [
        ['-4', '192.0.2.1'],
        ['-6', 'fd00:2::1'],
      ] as const)
        await run('ip', family, 'route', 'replace', 'default', 'via', gateway);
      await device.read();
      // IPv6 takes the source out of the route by itself.
      expect(device.differences(new Set(LATE))).toHaveLength(1);
      await device.add(LATE);
      await device.read();
      expect(device.differences(new Set(LATE))).toEqual([]);
      expect(await Promise.all(LATE.map(toward))).toEqual([
        [true, '192.0.2.9'],
        [true, 'fd00:2::9'],
      ]);
    });

    test('the agent before took note of the source: so does the next', async () => {
      const next = new ServiceDevice(bare.paths[0]!, socket);
      let heard = 0;
      next.watch(() => {
        heard++;
      });
      await next.read();
      await run('ip', 'addr', 'del', '192.0.2.10/24', 'dev', 'up0');
      await expect.poll(() => heard).toBeGreaterThan(0);
      next.close();
    });

    test('an address is taken by somebody: it comes back with the same source', async () => {
      for (const family of ['-4', '-6']) await run('ip', family, 'route', 'flush', ...OURS);
      await device.read();
      await device.add(LATE);
      expect(device.differences(new Set(LATE))).toEqual([]);
      for (const [n, address] of LATE.entries()) expect(await toward(address)).toEqual([true, SOURCES[n]]);
    });

    test('taken away, nothing of it is left', async () => {
      await device.remove(LATE);
      const local = async (...family: readonly string[]) =>
        (await run('ip', ...family, 'route', 'show', 'table', 'local', 'dev', SERVICE_LINK)).stdout;
      expect(`${await local()}${await local('-6')}`).not.toMatch(/200[.:]/);
      for (const address of LATE) expect((await toward(address))[0]).toBe(false);
    });
  });

  test('beside the same addresses on the device of kube-proxy: they stay when that goes', async () => {
    await run('ip', 'link', 'add', KUBE_PROXY_LINK, 'type', 'veth', 'peer', 'name', 'far');
    await run('ip', 'link', 'set', KUBE_PROXY_LINK, 'up');
    const both = ['10.200.1.30', 'fd00:10:200::30'].map(ip);
    for (const address of both) await run('ip', 'addr', 'add', address, 'dev', KUBE_PROXY_LINK);
    await device.read();
    expect((await device.add(both)).problems).toEqual([]);
    await run('ip', 'link', 'del', KUBE_PROXY_LINK);
    await device.read();
    expect(device.differences(new Set([...ADDRESSES, ...both]))).toEqual([]);
    for (const address of both)
      expect((await run('ip', '-o', 'route', 'get', address)).stdout).toMatch(/^local /);
  });

  test('addresses of the device, as an agent before this version had them, are taken over and removed', async () => {
    const old = ['10.200.1.40', 'fd00:10:200::40'].map(ip);
    for (const address of old) await run('ip', 'addr', 'add', address, 'dev', SERVICE_LINK);
    const bound = async () => {
      await device.read();
      return [...device.addresses()].filter((address) => old.includes(address)).length;
    };
    await expect.poll(bound).toBe(2);
    await device.add(old);
    expect(device.differences(new Set([...ADDRESSES, ...old]))).toEqual([]);
    await device.remove(old);
    expect(await bound()).toBe(0);
  });

  test('without a device: routes, with the same source', async () => {
    await run('ip', 'link', 'del', SERVICE_LINK);
    const routed = new ServiceDevice(bare.paths[0]!, socket, []);
    await run('ip', 'addr', 'add', '192.0.2.10/24', 'dev', 'lo');
    await run('ip', 'route', 'add', '10.200.1.0/24', 'dev', 'lo', 'src', '192.0.2.10');
    await routed.read();
    await routed.add([ADDRESSES[0]!]);
    const { stdout } = await run('ip', '-o', 'route', 'get', ADDRESSES[0]!);
    expect(stdout).toMatch(/^local .* src 192\.0\.2\.10 /);
    await routed.read();
    expect(routed.differences(new Set([ADDRESSES[0]!]))).toEqual([]);
    await routed.remove([ADDRESSES[0]!]);
    expect((await run('ip', '-o', 'route', 'get', ADDRESSES[0]!)).stdout).not.toMatch(/^local/);
    routed.close();
  });
});
