/** A running triplane-pod and its conversation by lines: commands in, JSON out. */
import { type ChildProcessByStdio, type StdioOptions, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { netnsPath, podProgram } from './paths.ts';
import { identify, type ProcessId } from './processes.ts';
import type { PodEvent } from './results.ts';

export interface Job {
  /** Resolves with the job's last line; rejects if the command was refused or the process ended. */
  readonly done: Promise<PodEvent & { event: 'done' }>;
  /** Asks the job to end early; its summary still comes. */
  readonly stop: () => void;
}

/** Something that runs the client jobs of one place. */
export interface JobRunner {
  readonly run: (args: readonly string[], onEvent: (event: PodEvent) => void) => Job;
}

export interface PodProcessOptions {
  readonly name: string;
  readonly namespace: string;
  readonly serve: readonly string[];
  readonly lifetime: 'process' | 'kept';
  readonly cgroup: string | null;
  readonly logFile: string;
}

interface Pending {
  readonly onEvent: (event: PodEvent) => void;
  readonly resolve: (event: PodEvent & { event: 'done' }) => void;
  readonly reject: (error: Error) => void;
}

type Child = ChildProcessByStdio<Writable, Readable, null>;

/** Options that put a triplane-pod where it belongs. */
export function placement(namespace: string, lifetime: 'process' | 'kept', cgroup: string | null): string[] {
  return [
    ...['--netns', netnsPath(namespace)],
    ...(cgroup ? ['--cgroup', cgroup] : []),
    ...(lifetime === 'kept' ? ['--detach'] : ['--parent', String(process.pid)]),
  ];
}

/** Opens a log for a child; the caller closes it after the spawn. */
export function openLog(file: string): number {
  mkdirSync(path.dirname(file), { recursive: true });
  return openSync(file, 'a');
}

export class PodProcess implements JobRunner {
  readonly id: ProcessId;
  readonly ready: Promise<void>;
  readonly #child: Child;
  readonly #name: string;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #buffer = '';
  #onReady: () => void = () => {};

  /** Starts the process; it serves once `ready` resolves. Throws if it cannot be started at all. */
  constructor(options: PodProcessOptions) {
    const args = placement(options.namespace, options.lifetime, options.cgroup);
    args.push('--name', options.name);
    if (options.serve.length) args.push('--serve', options.serve.join(','));
    const log = openLog(options.logFile);
    // A session of its own: Ctrl-C in the terminal is for the lab, which then ends its pods in order.
    const stdio: StdioOptions = ['pipe', 'pipe', log];
    this.#child = spawn(podProgram(), args, { stdio, detached: true }) as Child;
    closeSync(log);
    this.#name = options.name;
    const pid = this.#child.pid;
    this.id = (pid === undefined ? null : identify(pid)) ?? { pid: pid ?? -1, start: '' };
    this.ready = new Promise((resolve, reject) => {
      this.#onReady = resolve;
      this.#child.on('error', reject);
      this.#child.on('exit', (status, signalName) => {
        const error = new Error(`${options.name} ended (${signalName ?? status}); see ${options.logFile}`);
        reject(error);
        this.#abandon(error);
      });
    });
    this.ready.catch(() => {});
    this.#child.stdin.on('error', () => {});
    this.#child.stdout.setEncoding('utf8').on('data', (text: string) => this.#take(text));
  }

  run(args: readonly string[], onEvent: (event: PodEvent) => void): Job {
    const id = this.#nextId++;
    const done = new Promise<PodEvent & { event: 'done' }>((resolve, reject) => {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
        reject(new Error(`${this.#name} is not running`));
        return;
      }
      this.#pending.set(id, { onEvent, resolve, reject });
      this.#hold();
      this.#child.stdin.write(`${id} ${args.join(' ')}\n`);
    });
    return { done, stop: () => void this.#child.stdin.write(`0 stop ${id}\n`) };
  }

  /** Listens on more ports, "tcp:90". */
  async serve(ports: readonly string[]): Promise<void> {
    await this.run(['serve', ports.join(',')], () => {}).done;
  }

  /** Resolves when the process is gone. */
  async ended(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    await new Promise((resolve) => this.#child.once('exit', resolve));
  }

  #abandon(error: Error): void {
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }

  /** Idle pods do not keep the program alive; a running job does. */
  #hold(): void {
    const streams = [this.#child, this.#child.stdin, this.#child.stdout] as unknown as {
      ref(): void;
      unref(): void;
    }[];
    for (const stream of streams) this.#pending.size ? stream.ref() : stream.unref();
  }

  #take(text: string): void {
    const lines = (this.#buffer + text).split('\n');
    this.#buffer = lines.pop() ?? '';
    for (const line of lines) this.#takeLine(JSON.parse(line));
  }

  #takeLine(event: PodEvent & { id?: number }): void {
    if ((event.event as string) === 'ready') {
      this.#onReady();
      this.#hold();
      return;
    }
    const pending = this.#pending.get(event.id ?? 0);
    if (!pending) return;
    if (event.event === 'done' || event.event === 'error') {
      this.#pending.delete(event.id ?? 0);
      this.#hold();
    }
    if (event.event === 'done') pending.resolve(event);
    else if (event.event === 'error') pending.reject(new RangeError(event.reason));
    else pending.onEvent(event);
  }
}

/** Runs each job in a process of its own: for places whose pod process belongs to another program. */
export class OneShotRunner implements JobRunner {
  readonly #namespace: string;
  readonly #cgroup: string | null;

  constructor(namespace: string, cgroup: string | null) {
    this.#namespace = namespace;
    this.#cgroup = cgroup;
  }

  run(args: readonly string[], onEvent: (event: PodEvent) => void): Job {
    const child = spawn(podProgram(), [...placement(this.#namespace, 'process', this.#cgroup), ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let buffer = '';
    let reason = '';
    const done = new Promise<PodEvent & { event: 'done' }>((resolve, reject) => {
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        const lines = (buffer + text).split('\n');
        buffer = lines.pop() ?? '';
        for (const line of lines) {
          const event = JSON.parse(line) as PodEvent;
          if (event.event === 'done') resolve(event);
          else onEvent(event);
        }
      });
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        reason += text;
      });
      child.on('error', reject);
      child.on('close', (status) =>
        reject(new RangeError(reason.trim() || `triplane-pod ended with status ${status}`)),
      );
    });
    return { done, stop: () => void child.kill('SIGTERM') };
  }
}
