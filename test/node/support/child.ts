/** Node processes that use the addon without TypeScript: for what must not share the test's process. */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { packageRoot } from '../../../src/node/native.ts';

const addon = path.join(packageRoot(), process.env.TRIPLANE_BUILD ?? 'build', 'Release/triplane.node');
const prelude = `const native = require(${JSON.stringify(addon)});\n`;

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts a CommonJS script in which `native` is the addon. The caller ends it. */
export function startChild(script: string, flags: readonly string[] = []): ChildProcess {
  return spawn(process.execPath, [...flags, '-e', prelude + script], { stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Runs it to its end, 30 seconds at most. */
export function runChild(script: string, flags: readonly string[] = []): Promise<Finished> {
  const child = startChild(script, flags);
  const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
  let stdout = '';
  let stderr = '';
  child.stdout!.on('data', (data) => {
    stdout += data;
  });
  child.stderr!.on('data', (data) => {
    stderr += data;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, stdout, stderr });
    });
  });
}

/** Resolves with the first line that it prints. */
export function firstLine(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    child.stdout!.on('data', (data) => {
      text += data;
      if (text.includes('\n')) resolve(text.slice(0, text.indexOf('\n')));
    });
    child.once('close', () => reject(new Error('it ended without a word')));
  });
}
