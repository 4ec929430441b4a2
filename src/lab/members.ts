/** The nodes and pods of a lab. */
import { Place } from './place.ts';
import type { NodePlan, PodPlan } from './plan.ts';
import type { JobRunner } from './pod-process.ts';

/** A node, from where its own processes speak. */
export class LabNode extends Place {
  readonly plan: NodePlan;
  constructor(plan: NodePlan, cgroup: string | null, runner: () => Promise<JobRunner> | JobRunner) {
    super({ name: plan.name, namespace: plan.namespace, addresses: plan.addresses, cgroup, runner });
    this.plan = plan;
  }
}

export class LabPod extends Place {
  readonly plan: PodPlan;
  readonly #signal: (name: NodeJS.Signals) => void;
  readonly #restart: () => Promise<void>;

  constructor(
    plan: PodPlan,
    cgroup: string | null,
    runner: () => Promise<JobRunner> | JobRunner,
    life: { signal: (name: NodeJS.Signals) => void; restart: () => Promise<void> },
  ) {
    super({ name: plan.name, namespace: plan.namespace, addresses: plan.addresses, cgroup, runner });
    this.plan = plan;
    this.#signal = life.signal;
    this.#restart = life.restart;
  }

  /** The node that it runs on. */
  get node(): string {
    return this.plan.node;
  }

  /** Ends the process; its network stays, so connections to it are refused. */
  kill(name: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): void {
    this.#signal(name);
  }

  /** Stops answering without closing anything: a pod that hangs. */
  pause(): void {
    this.#signal('SIGSTOP');
  }

  resume(): void {
    this.#signal('SIGCONT');
  }

  /** A new process after kill(). */
  restart(): Promise<void> {
    return this.#restart();
  }
}
