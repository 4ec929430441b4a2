/** cgroup v2 directories of a lab: one for each node, and in it one for each pod. */
import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { TriplaneError } from '../model/errors.ts';
import type { LabPlan } from './plan.ts';

/** Where cgroup v2 is mounted, from mountinfo: /sys/fs/cgroup, or /sys/fs/cgroup/unified beside v1. */
export function cgroupMount(): string | null {
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [left, right] = line.split(' - ');
    if (right?.startsWith('cgroup2 ')) return left?.split(' ')[4] ?? null;
  }
  return null;
}

/** The lab's directory, not made yet; null if the plan wants none. Throws TP_NO_FEATURE without cgroup v2. */
export function labCgroup(plan: LabPlan): string | null {
  if (plan.cgroups === 'none') return null;
  const mount = cgroupMount();
  if (!mount) throw new TriplaneError('TP_NO_FEATURE', 'cgroup v2 is not mounted');
  return path.join(mount, `triplane-${plan.name}`);
}

/** Makes the directory of a node, or of a pod or other process in it, and returns it. */
export function makeCgroup(lab: string | null, ...below: readonly string[]): string | null {
  if (!lab) return null;
  const dir = path.join(lab, ...below);
  mkdirSync(dir, { recursive: true });
  return dir;
}
