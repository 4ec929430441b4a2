/** What a chapter of the demo works with. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Family } from '../../model/records.ts';
import { WEB_PORT } from '../examples.ts';
import type { Lab } from '../lab.ts';
import { type ApiObject, yamlText } from '../manifests.ts';
import type { Load } from '../place.ts';
import { serviceAddress } from '../plan.ts';
import type { Outcome } from '../results.ts';
import { lineDiff } from './diff.ts';
import { Timeline } from './picture.ts';
import type { Terminal } from './terminal.ts';

export interface Verdict {
  readonly status: 'as promised' | 'NOT as promised';
  /** One line: what was seen. */
  readonly result: string;
}

export interface Chapter {
  readonly title: string;
  /** One or two sentences: what is shown. */
  readonly about: string;
  run(stage: Stage): Promise<Verdict>;
}

/** The kernel must follow a change of cluster state within this time, or the chapter has failed. */
const FOLLOW_MS_MAX = 5000;
const POLL_MS = 10;
/** Past TCP's first repetition of a SYN (1 s): a packet that a change drops on purpose comes again. */
export const PATIENCE_MS = 3000;
/** Of three pods with equal shares, one is missing in so many calls once in 3,300. */
export const PROBES = 20;

/** Settles a list of "what: why not": none means that all is as promised. */
export function verdict(problems: readonly string[], result: string): Verdict {
  return problems.length
    ? { status: 'NOT as promised', result: problems.join('; ') }
    : { status: 'as promised', result };
}

/** "2 refused, 1 timeout"; "none" when all were answered. */
export function failures(outcomes: Readonly<Record<Outcome, number>>): string {
  const bad = Object.entries(outcomes).filter(([name, count]) => name !== 'ok' && count > 0);
  return bad.map(([name, count]) => `${count} ${name}`).join(', ') || 'none';
}

export class Stage {
  readonly lab: Lab;
  readonly terminal: Terminal;
  readonly seconds: number;

  constructor(lab: Lab, terminal: Terminal, seconds: number) {
    this.lab = lab;
    this.terminal = terminal;
    this.seconds = seconds;
  }

  /** The lab's primary family: the one that is shown where one is enough. */
  get family(): Family {
    return this.lab.plan.families[0]!;
  }

  /** ClusterIP of service web (host number 10) or dns (11). */
  clusterIp(host: number, family: Family = this.family): string {
    return serviceAddress(family, host);
  }

  /** Names of the pods behind the services. */
  get webPods(): string[] {
    return this.lab.plan.pods.filter((pod) => pod.labels.app === 'web').map((pod) => pod.name);
  }

  /** Part of the chapter's time. */
  async pause(share: number): Promise<void> {
    await sleep(this.seconds * 1000 * share);
  }

  /**
   * Writes a manifest and shows what changed in its first object (an IPv6 slice changes as its IPv4 twin does).
   * Returns the moment of the write, CLOCK_REALTIME in milliseconds.
   */
  apply(file: string, objects: readonly ApiObject[]): number {
    const before = this.lab.manifests.read(file).split('---\n')[0] ?? '';
    const atMs = performance.timeOrigin + performance.now();
    this.lab.manifests.write(file, objects);
    this.showChange(file, before, yamlText(objects.slice(0, 1)));
    return atMs;
  }

  showChange(file: string, before: string, after: string): void {
    const rows = lineDiff(before, after, 2);
    const style = (row: string) =>
      row.startsWith('+')
        ? this.terminal.style('green', row)
        : row.startsWith('-')
          ? this.terminal.style('red', row)
          : row;
    this.terminal.lines([
      this.terminal.style('dim', `  ${file}.yaml`),
      ...rows.map((row) => `  ${style(row)}`),
      '',
    ]);
  }

  /** Waits until the traffic shows the change. Throws when it does not in time. */
  async until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const end = Date.now() + FOLLOW_MS_MAX;
    while (!(await holds())) {
      if (Date.now() > end) throw new Error(`${what}: not within ${FOLLOW_MS_MAX / 1000} s`);
      await sleep(POLL_MS);
    }
  }

  /** Pods that answer net-pod's new connections to service web, by a few of them. */
  async answering(): Promise<ReadonlySet<string>> {
    const options = { count: PROBES, timeoutMs: PATIENCE_MS };
    const { pods } = await this.lab.pod('net-pod').call('tcp', this.clusterIp(10), WEB_PORT, options);
    return new Set(Object.keys(pods));
  }

  /** Load on service web from net-pod with a timeline on the screen. */
  async loadWithTimeline(rate: number): Promise<{ load: Load; timeline: Timeline }> {
    const timeline = new Timeline(this.webPods, this.terminal.columns);
    const load = await this.lab.pod('net-pod').load('tcp', this.clusterIp(10), WEB_PORT, {
      rate,
      intervalMs: 100,
      timeoutMs: PATIENCE_MS,
      durationMs: this.seconds * 4000 + 20_000,
      onInterval: (interval) => {
        timeline.add(interval);
        this.terminal.live(timeline.lines());
      },
    });
    return { load, timeline };
  }
}
