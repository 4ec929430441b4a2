/** Runs `ip -batch` and triplane-pod setup inside namespaces: argument arrays and standard input, never a shell. */
import { spawn } from 'node:child_process';
import { TriplaneError } from '../model/errors.ts';
import { netnsPath, podProgram } from './paths.ts';
import { identify, type ProcessId, signal, waitGone } from './processes.ts';
import type { Batch } from './wiring.ts';

export interface Finished {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const running = new Set<ProcessId>();

/** Ends what runs at this moment: a lab that is being removed must not be built on at the same time. */
export function stopRunning(): void {
  for (const id of running) signal(id, 'SIGKILL');
  waitGone([...running], 2000);
}

/** Runs a program to its end. Never rejects for a status other than 0. */
export function runProgram(program: string, args: readonly string[], input = ''): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const id = child.pid === undefined ? null : identify(child.pid);
    if (id) running.add(id);
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    // A program that ends before it has read everything says why by its status.
    child.stdin.on('error', () => {});
    child.on('close', (status) => {
      if (id) running.delete(id);
      resolve({ status, stdout, stderr });
    });
    child.stdin.end(input);
  });
}

function check(finished: Finished, what: string, lines: readonly string[]): Finished {
  if (finished.status === 0) return finished;
  const reason = finished.stderr.trim().split('\n').join('; ');
  // iproute2 says "Command failed -:7"; the line itself says more.
  const line = lines[Number(/-:(\d+)/.exec(reason)?.[1] ?? 0) - 1];
  const code = /not permitted|denied/i.test(reason) ? 'TP_NO_PRIVILEGE' : 'TP_KERNEL_REFUSED';
  throw new TriplaneError(
    code,
    `${what}: ${reason || `status ${finished.status}`}${line ? ` (line: ${line})` : ''}`,
  );
}

export async function createNamespaces(names: readonly string[]): Promise<void> {
  const lines = names.map((name) => `netns add ${name}`);
  const args = ['--parent', String(process.pid), 'exec', 'ip', '-batch', '-'];
  check(await runProgram(podProgram(), args, `${lines.join('\n')}\n`), 'network namespaces', lines);
}

/** Applies `ip` lines inside one namespace. */
export async function applyBatch(batch: Batch): Promise<void> {
  if (!batch.lines.length) return;
  const place = ['--parent', String(process.pid), '--netns', netnsPath(batch.namespace)];
  const args = [...place, 'exec', 'ip', '-batch', '-'];
  check(
    await runProgram(podProgram(), args, `${batch.lines.join('\n')}\n`),
    `network of ${batch.namespace}`,
    batch.lines,
  );
}

/** Returns the settings that the kernel did not take and that the lab can do without. */
export async function applySettings(lines: readonly string[]): Promise<string[]> {
  if (!lines.length) return [];
  const finished = check(await runProgram(podProgram(), ['setup'], `${lines.join('\n')}\n`), 'settings', []);
  return [...new Set(finished.stdout.split('\n').filter(Boolean))];
}
