/** A node agent (`triplane run`) inside a node of the lab. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { podProgram, triplaneProgram } from './paths.ts';
import type { Place } from './place.ts';
import { openLog, placement } from './pod-process.ts';
import { identify, isAlive, type ProcessId, signal } from './processes.ts';

export const HEALTH_PORT = 10256;
const POLL_MS = 50;
const READY_MS_MAX = 30_000;

export interface AgentOptions {
  /** Further arguments of `triplane run`; a later flag wins over the lab's own. */
  readonly args?: readonly string[];
  /** Environment on top of this process's. */
  readonly env?: Readonly<Record<string, string>>;
  /** 'ready' (default): resolves once /healthz says 200; 'started': at once. */
  readonly wait?: 'ready' | 'started';
  /** How long it may take until it is ready; default: 30,000. */
  readonly readyMs?: number;
}

export interface AgentPlace {
  readonly node: Place;
  readonly lifetime: 'process' | 'kept';
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly adminSocket: string;
  readonly logFile: string;
}

export class Agent {
  readonly node: string;
  readonly adminSocket: string;
  readonly logFile: string;
  readonly id: ProcessId;
  readonly #place: Place;
  readonly #child: ChildProcess;

  constructor(at: AgentPlace) {
    this.node = at.node.name;
    this.adminSocket = at.adminSocket;
    this.logFile = at.logFile;
    this.#place = at.node;
    const log = openLog(at.logFile);
    // The agent itself stays outside the node's cgroup: what ebpf mode attaches there is not for it.
    const command = [process.execPath, triplaneProgram(), 'run', ...at.args];
    this.#child = spawn(
      podProgram(),
      [...placement(at.node.namespace, at.lifetime, null), 'exec', ...command],
      {
        stdio: ['ignore', log, log],
        detached: true,
        env: { ...process.env, ...at.env },
      },
    );
    closeSync(log);
    this.#child.unref();
    this.id = identify(this.#child.pid ?? -1) ?? { pid: -1, start: '' };
  }

  /** What it has written so far. */
  log(): string {
    return readFileSync(this.logFile, 'utf8');
  }

  alive(): boolean {
    return isAlive(this.id);
  }

  /** True once /healthz answers 200. It listens in the node's namespace, so the question is asked there. */
  async healthy(): Promise<boolean> {
    const host = this.#place.addresses[4] ? '127.0.0.1' : '::1';
    const answer = await this.#place.ask('http', host, HEALTH_PORT, { path: '/healthz', timeoutMs: 1000 });
    return answer.outcome === 'ok' && answer.status === 200;
  }

  /** Throws with the end of the log if the agent ends or is not ready in time. */
  async ready(timeoutMs = READY_MS_MAX): Promise<void> {
    const end = Date.now() + timeoutMs;
    // Alive after an answer: while it is not, another agent of the node may have answered.
    while (!((await this.healthy()) && this.alive())) {
      const tail = () => this.log().trimEnd().split('\n').slice(-5).join('\n');
      if (!this.alive()) throw new Error(`the agent on ${this.node} ended:\n${tail()}`);
      if (Date.now() > end)
        throw new Error(`the agent on ${this.node} is not ready after ${timeoutMs} ms:\n${tail()}`);
      await sleep(POLL_MS);
    }
  }

  /** SIGTERM (its rules stay) or SIGKILL; resolves when it is gone. */
  async stop(name: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.ref();
    signal(this.id, name);
    await gone;
  }
}
