/** The state file of a lab: everything that `down` needs, written before it is made. */
import { mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { RUN_DIR, stateFile } from './paths.ts';
import type { LabPlan } from './plan.ts';
import type { ProcessId } from './processes.ts';

export interface ProcessEntry extends ProcessId {
  readonly role: 'pod' | 'node' | 'client' | 'agent';
  readonly name: string;
}

export interface LabState {
  readonly version: 1;
  readonly name: string;
  /** The process that made it; a lab of lifetime 'process' whose owner is gone is a wreck. */
  readonly owner: ProcessId;
  plan: LabPlan;
  namespaces: string[];
  processes: ProcessEntry[];
  /** Removed with everything in them, deepest last. */
  directories: string[];
  /** The lab's own cgroup directory, null: none. */
  cgroup: string | null;
}

/** Never half-written: a reader sees the file before or after. */
export function writeState(state: LabState): void {
  mkdirSync(RUN_DIR, { recursive: true, mode: 0o755 });
  const file = stateFile(state.name);
  const draft = `${file}.${process.pid}.tmp`;
  writeFileSync(draft, JSON.stringify(state));
  renameSync(draft, file);
}

/** null when there is no such lab. */
export function readState(name: string): LabState | null {
  try {
    const state = JSON.parse(readFileSync(stateFile(name), 'utf8')) as LabState;
    return state.version === 1 ? state : null;
  } catch {
    return null;
  }
}

export function listLabs(): string[] {
  try {
    return readdirSync(RUN_DIR).flatMap((file) => /^lab-([a-z0-9-]+)\.json$/.exec(file)?.[1] ?? []);
  } catch {
    return [];
  }
}
