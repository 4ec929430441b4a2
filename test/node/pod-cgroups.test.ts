/** Pods' cgroups in a made-up tree: what kubelet makes under both drivers, and what only looks like it. */
import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { findPodCgroups } from '../../src/node/pod-cgroups.ts';

const UID = '6f1e1a3c-7d2b-4c56-9a10-3b1f0d2e4c55';
const SLICED = UID.replaceAll('-', '_');
const STATIC = '0a7f3bc1d2e94f5566778899aabbccdd';

let root: string;
beforeEach(() => {
  root = mkdtempSync(path.join(tmpdir(), `triplane-cgroups-${process.pid}-`));
});
afterEach(() => rmSync(root, { recursive: true }));

function make(dir: string): bigint {
  mkdirSync(path.join(root, dir), { recursive: true });
  return statSync(path.join(root, dir), { bigint: true }).ino;
}

async function idsOf(...uids: string[]): Promise<Record<string, readonly bigint[]>> {
  return Object.fromEntries((await findPodCgroups([root], uids)).ids);
}

describe('the cgroup of a pod is found', () => {
  test.each([
    ['systemd', `kubepods.slice/kubepods-pod${SLICED}.slice`],
    ['systemd, burstable', `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${SLICED}.slice`],
    [
      'systemd, best effort',
      `kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${SLICED}.slice`,
    ],
    ['cgroupfs', `kubepods/pod${UID}`],
    ['cgroupfs, burstable', `kubepods/burstable/pod${UID}`],
    ['cgroupfs, best effort', `kubepods/besteffort/pod${UID}`],
    [
      'a kubelet with a root of its own, in a container',
      `system.slice/docker-0f.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod${SLICED}.slice`,
    ],
    ['cgroupfs below a root of its own', `a/b/kubepods/burstable/pod${UID}`],
  ])('%s', async (_what, dir) => {
    const id = make(dir);
    make(`${dir}/cri-containerd-1.scope/init.scope`);
    make('system.slice/sshd.service');
    make('kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podanother.slice');
    expect(await idsOf(UID)).toEqual({ [UID]: [id] });
  });

  test('of a static pod, by its hash', async () => {
    const id = make(`kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${STATIC}.slice`);
    expect(await idsOf(STATIC, UID)).toEqual({ [STATIC]: [id] });
  });

  test('from the directories in which it was found before', async () => {
    const dir = 'kubepods.slice/kubepods-burstable.slice';
    make(`${dir}/kubepods-burstable-podx.slice`);
    const { parents } = await findPodCgroups([root], ['nobody']);
    expect(parents.map((one) => path.relative(root, one))).toEqual(['kubepods.slice', dir]);
    const id = make(`kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${SLICED}.slice`);
    const found = await findPodCgroups(parents, [UID]);
    expect(Object.fromEntries(found.ids)).toEqual({ [UID]: [id] });
    expect(found.parents).toHaveLength(3);
    make('kubepods/burstable/podx');
    const other = await findPodCgroups([path.join(root, 'kubepods/burstable')], ['x']);
    expect(other.ids.size).toBe(1);
  });
});

describe('nobody else is found', () => {
  test.each([
    ['a directory of that name elsewhere', `user.slice/pod${UID}`],
    ['a slice of that name elsewhere', `user.slice/user-pod${SLICED}.slice`],
    ['within a pod', `kubepods.slice/kubepods-podx.slice/kubepods.slice/kubepods-pod${SLICED}.slice`],
    ['the name of another driver', `kubepods.slice/pod${UID}`],
    ['a class that is none', `kubepods/best/pod${UID}`],
    ['a longer UID', `kubepods/pod${UID}0`],
    ['too deep', `${'a/'.repeat(12)}kubepods/pod${UID}`],
  ])('%s', async (_what, dir) => {
    make(dir);
    expect(await idsOf(UID)).toEqual({});
  });

  test('files, and links out of the tree', async () => {
    make('kubepods');
    make('elsewhere');
    writeFileSync(path.join(root, `kubepods/pod${UID}`), '');
    symlinkSync(path.join(root, 'elsewhere'), path.join(root, `kubepods/pod${STATIC}`));
    expect(await idsOf(UID, STATIC)).toEqual({});
  });

  test.each(['../../etc', '..', '.', '/', 'a/b', '', '*', `${UID}\n`, '__proto__', 'x'.repeat(5000)])(
    'a UID that is none: %j',
    async (uid) => {
      make(`kubepods/pod${UID}`);
      make('kubepods.slice/kubepods-burstable.slice');
      expect(await idsOf(uid)).toEqual({});
    },
  );

  test('where there is no such directory', async () => {
    const found = await findPodCgroups([path.join(root, 'none'), '/proc/self/fd/none'], [UID]);
    expect(found).toEqual({ ids: new Map(), parents: [] });
  });
});
