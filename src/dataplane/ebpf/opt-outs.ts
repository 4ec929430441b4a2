/**
 * tp_optouts: the cgroups of pods whose sockets are left alone. A pod is known before kubelet has made its cgroup, most
 * often by milliseconds, and its first connection is to be served right: so inotify watches the directories where pods'
 * cgroups come and go. A look through the whole tree, less and less often, finds those directories when they come, and
 * goes on until every pod is found or no longer asked for; a node that never has a pod's cgroup costs one look in half a
 * minute.
 */
import { type FSWatcher, watch } from 'node:fs';
import type { OptOut } from '../../model/desired.ts';
import { findPodCgroups, type PodCgroups } from '../../node/pod-cgroups.ts';
import type { ApplyResult, Degree, TableUse } from '../dataplane.ts';
import type { SideMap } from './maps.ts';

/** Between two looks through the whole tree while a pod is missing: the first time, and at most. */
const LOOK_MIN_MS = 100;
const LOOK_MAX_MS = 30_000;
/** What comes together is looked at together. */
const SETTLE_MS = 5;

export interface OptOutParts {
  readonly map: SideMap;
  /** Folder of cgroup v2 in which the programs stand; '': nowhere, and nobody has to be found. */
  readonly cgroup: string;
  /** Programs look only while there are some. */
  readonly onUse: (optOuts: 'none' | 'some') => void;
}

export class OptOuts {
  readonly #parts: OptOutParts;
  /** What is in the map. */
  #written: Set<bigint>;
  #pods: readonly OptOut[] = [];
  #missing: readonly OptOut[] = [];
  #parents: readonly string[] = [];
  readonly #watchers = new Map<string, FSWatcher>();
  #treeTimer: NodeJS.Timeout | null = null;
  #parentsTimer: NodeJS.Timeout | null = null;
  #delayMs = LOOK_MIN_MS;
  /** One look at a time. */
  #turn: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** Takes over what a predecessor has written, until follow() says otherwise. */
  constructor(parts: OptOutParts) {
    this.#parts = parts;
    this.#written = new Set(parts.map.keys().map(readId));
  }

  get use(): TableUse {
    return { table: 'optouts', used: this.#written.size, limit: this.#parts.map.handle.entries };
  }

  /** None: no pod asks for it. */
  degrees(): Degree[] {
    const { cgroup } = this.#parts;
    if (this.#pods.length === 0 || cgroup === '') return [];
    const names = this.#missing.map(({ pod }) => pod);
    const reason = names.length === 0 ? '' : `no cgroup under ${cgroup} is that of ${listSome(names)}`;
    const got = names.length === 0 ? 'yes' : names.length < this.#pods.length ? 'some' : 'none';
    return [{ feature: 'socket_optout', device: '', got, reason }];
  }

  /** These pods and no others from now on. Resolves when those that have a cgroup are in the map. */
  async follow(pods: readonly OptOut[]): Promise<ApplyResult> {
    this.#pods = pods;
    this.#delayMs = LOOK_MIN_MS;
    return this.#look('tree');
  }

  /** Looks again; one line for each thing that somebody else had changed. */
  async repair(): Promise<string[]> {
    const there = new Set(this.#parts.map.keys().map(readId));
    const isSame = there.size === this.#written.size && [...there].every((id) => this.#written.has(id));
    this.#written = there;
    // A directory that was removed and made again has the same name, and nobody watches the new one.
    this.#watch([]);
    await this.#look('tree');
    return isSame ? [] : ['the list of pods that opted out was changed'];
  }

  #look(where: 'tree' | 'parents'): Promise<ApplyResult> {
    const turn = this.#turn.then(() => this.#lookNow(where));
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async #lookNow(where: 'tree' | 'parents'): Promise<ApplyResult> {
    const pods = this.#parts.cgroup === '' ? [] : this.#pods;
    const uids = pods.map(({ cgroupUid }) => cgroupUid);
    const starts = where === 'tree' ? [this.#parts.cgroup] : this.#parents;
    const found: PodCgroups =
      pods.length === 0 ? { ids: new Map(), parents: [] } : await findPodCgroups(starts, uids);
    if (this.#closed) return { operations: 0, refusals: [] };
    this.#missing = pods.filter(({ cgroupUid }) => !found.ids.has(cgroupUid));
    this.#parents = found.parents;
    this.#watch(found.parents);
    if (this.#missing.length > 0) this.#lookInTree();
    else this.#delayMs = LOOK_MIN_MS;
    return this.#write([...found.ids.values()].flat());
  }

  /** Entries before the flag that has programs look, and the other way round. */
  #write(ids: readonly bigint[]): ApplyResult {
    const { map, onUse } = this.#parts;
    const room = map.handle.entries;
    const wanted = new Set(ids.slice(0, room));
    const gone = [...this.#written].filter((id) => !wanted.has(id));
    const fresh = [...wanted].filter((id) => !this.#written.has(id));
    if (wanted.size === 0) onUse('none');
    map.removeAll(gone.map(encodeId));
    if (fresh.length > 0) map.update(Buffer.concat(fresh.map(encodeId)), new Uint8Array(fresh.length * 4));
    this.#written = wanted;
    if (wanted.size > 0) onUse('some');
    const operations = gone.length + fresh.length;
    if (ids.length <= room) return { operations, refusals: [] };
    const reason = `${ids.length - room} of the pods that opted out of socket programs: at most ${room} can`;
    return { operations, refusals: [{ service: '', reason: `no room for ${reason}` }] };
  }

  #watch(parents: readonly string[]): void {
    for (const [dir, watcher] of this.#watchers) {
      if (parents.includes(dir)) continue;
      watcher.close();
      this.#watchers.delete(dir);
    }
    for (const dir of parents) {
      if (this.#watchers.has(dir)) continue;
      try {
        // 'change' is of the files in it, which the kernel writes all the time.
        const watcher = watch(
          dir,
          { persistent: false },
          (what) => what === 'rename' && this.#lookInParents(),
        );
        // Without it the timer goes on looking.
        watcher.on('error', () => this.#forget(dir));
        this.#watchers.set(dir, watcher);
        // What came between the look and the watch has stirred nobody.
        this.#lookInParents();
      } catch {
        // Gone meanwhile, or no watches are left on this machine.
      }
    }
  }

  #forget(dir: string): void {
    this.#watchers.get(dir)?.close();
    this.#watchers.delete(dir);
  }

  #lookInParents(): void {
    if (this.#closed || this.#parentsTimer) return;
    this.#parentsTimer = setTimeout(() => {
      this.#parentsTimer = null;
      this.#lookAgain('parents');
    }, SETTLE_MS).unref();
  }

  #lookInTree(): void {
    if (this.#closed || this.#treeTimer) return;
    this.#treeTimer = setTimeout(() => {
      this.#treeTimer = null;
      this.#delayMs = Math.min(LOOK_MAX_MS, this.#delayMs * 2);
      this.#lookAgain('tree');
    }, this.#delayMs).unref();
  }

  #lookAgain(where: 'tree' | 'parents'): void {
    // What the kernel refuses now, the next look tries again.
    this.#look(where).catch(() => this.#lookInTree());
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const timer of [this.#treeTimer, this.#parentsTimer]) if (timer) clearTimeout(timer);
    this.#watch([]);
    await this.#turn;
  }
}

const NAMED_MAX = 3;

function listSome(names: readonly string[]): string {
  const more = names.length - NAMED_MAX;
  return more > 0 ? `${names.slice(0, NAMED_MAX).join(', ')} and ${more} more` : names.join(', ');
}

function encodeId(id: bigint): Uint8Array {
  return new Uint8Array(BigUint64Array.of(id).buffer);
}

function readId(key: Uint8Array): bigint {
  return new DataView(key.buffer, key.byteOffset).getBigUint64(0, true);
}
