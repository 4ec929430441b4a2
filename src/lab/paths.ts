/** Where the lab finds its program, and where it keeps its state. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { TriplaneError } from '../model/errors.ts';

/** State files, manifests, logs and sockets of all labs. */
export const RUN_DIR = '/run/triplane';

/** The checkout or package that this code runs from, as source or as bundle. */
export function packageRoot(): string {
  let dir = import.meta.dirname;
  while (!existsSync(path.join(dir, 'binding.gyp')) && dir !== path.dirname(dir)) dir = path.dirname(dir);
  return dir;
}

/** Throws TP_NO_LIBRARY if it is not built. */
export function podProgram(): string {
  const program = path.join(packageRoot(), 'build/Release/triplane-pod');
  if (!existsSync(program))
    throw new TriplaneError('TP_NO_LIBRARY', `${program} is not built: run npm run setup`);
  return program;
}

export function triplaneProgram(): string {
  return path.join(packageRoot(), 'bin/triplane');
}

export function stateFile(lab: string): string {
  return path.join(RUN_DIR, `lab-${lab}.json`);
}

export function labDir(lab: string): string {
  return path.join(RUN_DIR, `lab-${lab}`);
}

export function netnsPath(namespace: string): string {
  return `/run/netns/${namespace}`;
}

/** The admin socket of a node's agent. */
export function agentSocket(lab: string, node: string): string {
  return path.join(labDir(lab), 'agents', `${node}.sock`);
}
