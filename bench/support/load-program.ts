/** The load program (bench/load/load.c) as a child that is asked by lines and answers each with one. */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { packageRoot } from '../../src/node/native.ts';
import { type Histogram, parseHistogram } from './histogram.ts';

/** More than the load program itself waits for anything. */
const ANSWER_MS_MAX = 320_000;

/** What the load program can be asked for; bench/load/load.c says what each does. */
export type LoadKind = 'tcp' | 'udp' | 'tcp-rr' | 'udp-rr' | 'stream' | 'until';

export interface LoadAnswer {
  /** Of all calls together; for 'until' the time of CLOCK_MONOTONIC. */
  readonly nanoseconds: number;
  readonly failed: number;
  readonly histogram: Histogram;
}

const running = new Set<ChildProcess>();
// A bench that fails leaves nobody behind.
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

export function loadBinary(): string {
  return path.join(packageRoot(), 'build/Release/triplane-load');
}

export class LoadProgram {
  private readonly child: ChildProcess;
  private readonly left: Promise<void>;
  private waiting: ((line: string | null) => void) | null = null;
  private hasLeft = false;

  /** `command` is what runs it where it belongs: `nsenter --net=...`, or the lab's pod program. */
  constructor(command: readonly string[], args: readonly string[]) {
    const [program, ...rest] = [...command, loadBinary(), ...args];
    this.child = spawn(program!, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.child.stdin!.on('error', () => {});
    createInterface({ input: this.child.stdout! }).on('line', (line) => this.answer(line));
    this.left = new Promise((resolve) => {
      this.child.on('close', () => {
        this.hasLeft = true;
        this.answer(null);
        resolve();
      });
    });
    running.add(this.child);
  }

  private answer(line: string | null): void {
    this.waiting?.(line);
    this.waiting = null;
  }

  private ask(line: string | null): Promise<string> {
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error(`no answer to ${line}`)), ANSWER_MS_MAX);
      this.waiting = (answer) => {
        clearTimeout(limit);
        if (answer === null) reject(new Error(`the load program ended at ${line}`));
        else resolve(answer);
      };
      // Nobody is there to answer: not a thing to wait minutes for.
      if (this.hasLeft) this.answer(null);
      else if (line !== null) this.child.stdin!.write(`${line}\n`);
    });
  }

  /** Of a server: resolves when it listens. */
  async ready(): Promise<void> {
    await this.ask(null);
  }

  async call(kind: LoadKind, address: string, port: number, count: number): Promise<LoadAnswer> {
    const answer = await this.ask(`${kind} ${address} ${port} ${count}`);
    const [nanoseconds, failed, histogram] = answer.split(' ');
    return {
      nanoseconds: Number(nanoseconds),
      failed: Number(failed),
      histogram: parseHistogram(histogram!),
    };
  }

  /** Resolves once it has left its namespace and cgroup, so that both can be removed. */
  async end(): Promise<void> {
    // It may be within a call that goes on for minutes; it holds nothing that would be lost.
    this.child.kill();
    await this.left;
    running.delete(this.child);
  }
}
