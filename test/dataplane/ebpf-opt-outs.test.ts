/** Pods that opt out of socket programs, from the desired state to the map, over a cgroup tree made as kubelet makes it. */
import { mkdirSync, rmdirSync, statSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { cleanupEbpf } from '../../src/dataplane/ebpf/cleanup.ts';
import { EbpfDataplane } from '../../src/dataplane/ebpf/ebpf-dataplane.ts';
import { openMap } from '../../src/dataplane/ebpf/kernel.ts';
import { SideMap } from '../../src/dataplane/ebpf/maps.ts';
import { bpfNative } from '../../src/dataplane/ebpf/native.ts';
import type { EbpfOptions } from '../../src/dataplane/ebpf/options.ts';
import { Generation } from '../../src/dataplane/ebpf/pins.ts';
import { mapArray } from '../../src/dataplane/ebpf/tables.ts';
import { cgroupMount } from '../../src/lab/cgroups.ts';
import type { DesiredState } from '../../src/model/desired.ts';
import { SMALL, TestNet } from '../support/bpf-world.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SLOWNESS } from '../support/slowness.ts';

const MOUNT = cgroupMount();
const root = skipUnless(privilege() === 'root' && MOUNT !== null, 'needs root and cgroup v2');
const PINS = `/sys/fs/bpf/tpout${process.pid}`;
const TREE = `${MOUNT}/tpout${process.pid}`;
const BURSTABLE = 'kubepods.slice/kubepods-burstable.slice';
const podDir = (uid: string) => `${BURSTABLE}/kubepods-burstable-pod${uid}.slice`;
const PATIENCE = { timeout: 20_000 * SLOWNESS, interval: 20 };

const stateOf = (...uids: string[]): DesiredState => {
  const node = { detector: { by: 'none' }, serviceCIDRs: [] } as const;
  const optOuts = uids.map((cgroupUid) => ({ pod: `x/${cgroupUid}`, cgroupUid }));
  return { services: new Map(), node: uids.length > 0 ? { ...node, optOuts } : node };
};

root.describe('pods that opt out', () => {
  let net: TestNet;
  const open: EbpfDataplane[] = [];
  const dirs: string[] = [];
  beforeEach(() => {
    net = new TestNet('o');
    make('');
  });
  afterEach(async () => {
    for (const one of open.splice(0)) await one.close();
    cleanupEbpf(PINS);
    net.leave();
    for (const dir of dirs.splice(0).reverse()) rmdirSync(dir);
  });

  /** Makes a cgroup and those above it; its id. */
  function make(below: string): bigint {
    let dir = TREE;
    for (const name of ['', ...below.split('/').filter(Boolean)]) {
      dir = path.join(dir, name);
      if (dirs.includes(dir)) continue;
      mkdirSync(dir);
      dirs.push(dir);
    }
    return statSync(dir, { bigint: true }).ino;
  }

  function remove(below: string): void {
    const dir = path.join(TREE, below);
    rmdirSync(dir);
    dirs.splice(dirs.indexOf(dir), 1);
  }

  async function start(state: DesiredState, options: Partial<EbpfOptions> = {}) {
    const dataplane = new EbpfDataplane({ root: PINS, cgroup: TREE, sizes: SMALL, ...options });
    open.push(dataplane);
    return { dataplane, result: await dataplane.start(state) };
  }

  const change = (dataplane: EbpfDataplane, state: DesiredState) =>
    dataplane.apply({ set: [], remove: [], node: state.node }, state);

  function withMap<T>(name: string, work: (map: SideMap) => T): T {
    const handle = openMap(new Generation(PINS, 1), name)!;
    try {
      return work(new SideMap(handle));
    } finally {
      bpfNative().bpfClose(handle.fd);
    }
  }
  /** Ids in the map, and whether programs look into it. */
  function held(): { ids: bigint[]; looks: boolean } {
    const ids = withMap('tp_optouts', (map) =>
      map.keys().map((key) => new DataView(key.buffer, key.byteOffset).getBigUint64(0, true)),
    );
    const looks = withMap('tp_settings', ({ handle }) => mapArray(handle).words[0]! & ABI.S_SOCK_OPTOUT);
    return { ids: ids.sort((a, b) => Number(a - b)), looks: looks !== 0 };
  }
  const NOBODY = { ids: [], looks: false };
  const sorted = (...ids: bigint[]) => ids.sort((a, b) => Number(a - b));
  const degree = (dataplane: EbpfDataplane) =>
    dataplane.degrees().find(({ feature }) => feature === 'socket_optout');

  test('are found, now or when their cgroup comes, and leave', async () => {
    const ids = sorted(make(podDir('a_1')), make('kubepods/besteffort/podb-2'));
    make(podDir('c'));
    const { dataplane } = await start(stateOf('a-1', 'b-2'));
    expect(held()).toEqual({ ids, looks: true });
    expect(degree(dataplane)).toMatchObject({ got: 'yes', reason: '' });
    expect(dataplane.pressure().find(({ table }) => table === 'optouts')).toMatchObject({ used: 2 });
    await change(dataplane, stateOf('b-2', 'late'));
    expect(held().ids).toHaveLength(1);
    expect(degree(dataplane)).toMatchObject({
      got: 'some',
      reason: `no cgroup under ${TREE} is that of x/late`,
    });
    await change(dataplane, stateOf('late'));
    expect(held()).toEqual(NOBODY);
    // A class that had no pod so far, whose slice comes with its first.
    const late = 'kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podlate.slice';
    const id = make(late);
    await expect.poll(held, PATIENCE).toEqual({ ids: [id], looks: true });

    // What somebody else changed is put right.
    withMap('tp_optouts', (map) => {
      for (const key of map.keys()) map.remove(key);
      map.update(new Uint8Array(8).fill(7), new Uint8Array(4));
    });
    const { repaired } = await dataplane.verify(stateOf('late'));
    expect(repaired).toEqual(['the list of pods that opted out was changed']);
    expect(held()).toEqual({ ids: [id], looks: true });

    // The cgroup goes, and comes elsewhere: a kubelet that starts again with another driver.
    remove(late);
    await expect.poll(held, PATIENCE).toEqual(NOBODY);
    const again = make('kubepods/podlate');
    await expect.poll(held, PATIENCE).toEqual({ ids: [again], looks: true });
    await change(dataplane, stateOf());
    expect(held()).toEqual(NOBODY);
    expect(degree(dataplane)).toBeUndefined();
  });

  test('stay out while the next agent takes over, and that one decides', async () => {
    const id = make(podDir('a'));
    const first = await start(stateOf('a'));
    await first.dataplane.close();
    expect(held()).toEqual({ ids: [id], looks: true });
    const second = await start(stateOf('a'));
    expect(second.result.operations).toBeLessThanOrEqual(1);
    expect(held()).toEqual({ ids: [id], looks: true });
    await second.dataplane.close();
    // One that came before there was such a map; and where no program stands at sockets, nobody is looked for.
    unlinkSync(`${PINS}/g1/maps/tp_optouts`);
    const third = await start(stateOf('a'), { socketLb: 'off' });
    expect(held()).toEqual(NOBODY);
    expect(degree(third.dataplane)).toBeUndefined();
  });
});
