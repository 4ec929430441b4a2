/**
 * Where kubelet keeps the processes of a pod (pkg/kubelet/cm/pod_container_manager_linux.go, cgroup_manager_linux.go),
 * below whatever its own --cgroup-root is:
 *
 *     kubepods.slice/[kubepods-burstable.slice/]kubepods[-burstable]-podUID.slice     systemd, - in UID written as _
 *     kubepods/[burstable/]podUID                                                     cgroupfs
 */
import type { Dirent } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';

/** Directories below the one where the search begins: a kubelet in a container in a slice has its own at five. */
const DEPTH_MAX = 12;
/** A tree that is larger is searched no further: what it would cost is not worth a pod's wish. */
const DIRECTORIES_MAX = 50_000;

/** Directories that hold those of pods: one, and one for each class of service but the best. */
const SYSTEMD_PARENT = /^(?:.+-)?kubepods(?:-burstable|-besteffort)?\.slice$/;
const SYSTEMD_POD = /^(?:.+-)?kubepods(?:-burstable|-besteffort)?-pod(.+)\.slice$/;
const CGROUPFS_TOP = 'kubepods';
const CGROUPFS_CLASSES: ReadonlySet<string> = new Set(['burstable', 'besteffort']);
const CGROUPFS_POD = /^pod(.+)$/;

export interface PodCgroups {
  /** Ids of cgroups by the UID that was asked for. */
  readonly ids: ReadonlyMap<string, readonly bigint[]>;
  /** Directories in which pods' directories come and go. */
  readonly parents: readonly string[];
}

/** What a directory is to the search. */
type Kind = 'other' | 'systemd' | 'cgroupfs' | 'cgroupfs class';

function kindOf(name: string, parent: Kind): Kind {
  if (SYSTEMD_PARENT.test(name)) return 'systemd';
  if (name === CGROUPFS_TOP) return 'cgroupfs';
  return parent === 'cgroupfs' && CGROUPFS_CLASSES.has(name) ? 'cgroupfs class' : 'other';
}

/** The UID of a directory's name, - written as _; null: it is no pod's. */
function uidOf(name: string, parent: Kind): string | null {
  if (parent === 'other') return null;
  const found = (parent === 'systemd' ? SYSTEMD_POD : CGROUPFS_POD).exec(name);
  return found ? written(found[1]!) : null;
}

const written = (uid: string) => uid.replaceAll('-', '_');

/** One that is gone, or may not be read, is empty. */
async function directoriesIn(dir: string): Promise<Dirent[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory());
}

/**
 * Looks for the cgroups of pods in directories of cgroup v2 and in what is below them. Nothing that a UID says becomes
 * part of a path: names are read and compared.
 *
 * @param starts directories; those of pods are found in them if they are parents by their own name
 */
export async function findPodCgroups(starts: readonly string[], uids: Iterable<string>): Promise<PodCgroups> {
  const wanted = new Map([...uids].map((uid) => [written(uid), uid]));
  const ids = new Map<string, bigint[]>();
  const parents = new Set<string>();
  const kindOfPath = (dir: string) =>
    kindOf(path.basename(dir), kindOf(path.basename(path.dirname(dir)), 'other'));
  let level = starts.map((dir) => ({ dir, kind: kindOfPath(dir) }));
  for (let depth = 0, seen = 0; depth <= DEPTH_MAX; depth++) {
    const next: typeof level = [];
    for (const { dir, kind } of level) {
      if (parents.has(dir) || seen > DIRECTORIES_MAX) continue;
      if (kind !== 'other') parents.add(dir);
      for (const { name } of await directoriesIn(dir)) {
        seen++;
        const at = path.join(dir, name);
        const uid = uidOf(name, kind);
        if (uid === null) next.push({ dir: at, kind: kindOf(name, kind) });
        else if (wanted.has(uid)) await note(ids, wanted.get(uid)!, at);
      }
    }
    level = next;
  }
  return { ids, parents: [...parents] };
}

/** A cgroup's id is the inode number of its directory (cgroup_id() in linux/cgroup.h). */
async function note(ids: Map<string, bigint[]>, uid: string, dir: string): Promise<void> {
  const found = await stat(dir, { bigint: true }).catch(() => null);
  if (found) ids.set(uid, [...(ids.get(uid) ?? []), found.ino]);
}
