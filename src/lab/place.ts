/** A place in the lab from which traffic starts: a pod, a node's own processes, the outside client. */
import type { ChildProcess, SpawnOptions } from 'node:child_process';
import { spawn } from 'node:child_process';
import { podProgram } from './paths.ts';
import type { PerFamily } from './plan.ts';
import { type Job, type JobRunner, placement } from './pod-process.ts';
import {
  type CallOptions,
  type CallProtocol,
  type CallResult,
  type CallSummary,
  callArgs,
  type Established,
  type HoldOptions,
  holdArgs,
  type LoadOptions,
  loadArgs,
  type RequestResult,
} from './results.ts';
import { type Finished, runProgram } from './run.ts';

export interface Load {
  /** Failures so far, oldest first. */
  readonly failures: readonly RequestResult[];
  /** Resolves when the load has ended by its bound or by stop(). */
  readonly done: Promise<CallSummary>;
  stop(): Promise<CallSummary>;
}

export interface Hold extends Load {
  /** Resolves once every connection has had its first answer or has failed. */
  readonly established: Promise<Established>;
}

export interface PlaceOptions {
  readonly name: string;
  readonly namespace: string;
  readonly addresses: PerFamily;
  readonly cgroup: string | null;
  /** Gives the process that runs this place's jobs, starting it if need be. */
  readonly runner: () => Promise<JobRunner> | JobRunner;
}

export class Place {
  readonly name: string;
  readonly namespace: string;
  readonly addresses: PerFamily;
  readonly cgroup: string | null;
  readonly #runner: () => Promise<JobRunner> | JobRunner;

  constructor(options: PlaceOptions) {
    this.name = options.name;
    this.namespace = options.namespace;
    this.addresses = options.addresses;
    this.cgroup = options.cgroup;
    this.#runner = options.runner;
  }

  /** Sends requests, each on a connection or socket of its own, and says what became of them. */
  async call(
    protocol: CallProtocol,
    address: string,
    port: number,
    options: CallOptions = {},
  ): Promise<CallResult> {
    const requests: RequestResult[] = [];
    const runner = await this.#runner();
    const job = runner.run(callArgs(protocol, address, port, options), (event) => {
      if (event.event === 'request' || event.event === 'failure') requests.push(event);
    });
    return { ...(await job.done), requests };
  }

  /** One request, and what became of it. */
  async ask(
    protocol: CallProtocol,
    address: string,
    port: number,
    options: CallOptions = {},
  ): Promise<RequestResult> {
    const { requests } = await this.call(protocol, address, port, { ...options, count: 1 });
    return requests[0]!;
  }

  /** Requests one after the other until stop() or the bound. */
  async load(
    protocol: CallProtocol,
    address: string,
    port: number,
    options: LoadOptions = {},
  ): Promise<Load> {
    const failures: RequestResult[] = [];
    const runner = await this.#runner();
    const job = runner.run(loadArgs(protocol, address, port, options), (event) => {
      if (event.event === 'interval') options.onInterval?.(event);
      if (event.event !== 'failure') return;
      failures.push(event);
      options.onFailure?.(event);
    });
    return { failures, ...ending(job) };
  }

  /** Long connections (or datagram sockets) over which lines go to and fro until stop() or the bound. */
  async hold(
    protocol: 'tcp' | 'udp' | 'sctp',
    address: string,
    port: number,
    options: HoldOptions = {},
  ): Promise<Hold> {
    const failures: RequestResult[] = [];
    const runner = await this.#runner();
    let establish: (state: Established) => void = () => {};
    const established = new Promise<Established>((resolve) => {
      establish = resolve;
    });
    const job = runner.run(holdArgs(protocol, address, port, options), (event) => {
      if (event.event === 'established') establish(event);
      if (event.event !== 'failure' && event.event !== 'moved') return;
      failures.push(event);
      options.onFailure?.(event);
    });
    return { failures, established, ...ending(job) };
  }

  /** Runs a program here to its end. */
  exec(command: readonly string[], input = ''): Promise<Finished> {
    return runProgram(
      podProgram(),
      [...placement(this.namespace, 'process', this.cgroup), 'exec', ...command],
      input,
    );
  }

  /** Starts a program here; the caller owns it. */
  spawn(command: readonly string[], options: SpawnOptions = {}): ChildProcess {
    return spawn(
      podProgram(),
      [...placement(this.namespace, 'process', this.cgroup), 'exec', ...command],
      options,
    );
  }
}

function ending(job: Job): { done: Promise<CallSummary>; stop: () => Promise<CallSummary> } {
  // Whoever only calls stop() must not be hit by an unhandled rejection of `done`.
  job.done.catch(() => {});
  return {
    done: job.done,
    stop: () => {
      job.stop();
      return job.done;
    },
  };
}
