/** The other side of flow-engine.py: one process that holds all sockets of a world. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { ROOT } from './checkout.ts';

export const PYTHON = '/usr/bin/python3';
/** null: flows can be made here. */
export const missingForFlows = existsSync(PYTHON) ? null : 'needs python3, which makes sockets in namespaces';

export interface FlowSpec {
  /** File of the client's network namespace. */
  readonly ns: string;
  readonly proto: 'tcp' | 'udp';
  /** '': as the kernel chooses. */
  readonly src: string;
  /** 0: as the kernel chooses. */
  readonly sport: number;
  readonly dst: string;
  readonly dport: number;
  /** Seconds after which silence counts. */
  readonly wait: number;
  /** How a TCP client ends its connection. */
  readonly close: 'fin' | 'rst';
  /** Of UDP sockets. */
  readonly connected: boolean;
}

export interface FlowOutcome {
  /** 'ok', 'refused', 'timeout', or what else went wrong. */
  readonly outcome: string;
  /** "address port" of the server as it sees itself. */
  readonly at?: string;
  /** The client's address as the server sees it. */
  readonly peer?: string;
}

type Reply = 'ready' | FlowOutcome[];

export class FlowEngine {
  readonly #child: ChildProcess;
  readonly #waiting: { resolve: (reply: Reply) => void; reject: (error: Error) => void }[] = [];
  #stderr = '';

  /** @param cgroup folder of cgroup v2 in which the process lives; null: where we live */
  constructor(cgroup: string | null) {
    const file = path.join(ROOT, 'test/support/flow-engine.py');
    this.#child = spawn(PYTHON, ['-u', file], { stdio: ['pipe', 'pipe', 'pipe'] });
    if (cgroup !== null) writeFileSync(path.join(cgroup, 'cgroup.procs'), `${this.#child.pid}`);
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text;
    });
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      this.#waiting.shift()?.resolve(JSON.parse(line) as Reply);
    });
    this.#child.on('exit', () => {
      for (const { reject } of this.#waiting.splice(0))
        reject(new Error(`flow-engine.py ended: ${this.#stderr}`));
    });
  }

  #ask(command: object): Promise<Reply> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#child.stdin!.write(`${JSON.stringify(command)}\n`);
    });
  }

  /** Serves these ports over TCP and UDP in both families. */
  async serve(ports: readonly { readonly ns: string; readonly port: number }[]): Promise<void> {
    await this.#ask({ serve: ports });
  }

  /** All at once; outcomes in the order of the flows. */
  async run(flows: readonly FlowSpec[]): Promise<FlowOutcome[]> {
    return flows.length === 0 ? [] : ((await this.#ask({ run: flows })) as FlowOutcome[]);
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    await new Promise((resolve) => {
      this.#child.once('exit', resolve);
      this.#child.kill('SIGKILL');
    });
  }
}
