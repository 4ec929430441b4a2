/**
 * The demo: a lab with an agent on every node, and chapters that each make a change, show what traffic
 * experiences, and say whether that was as promised.
 */
import type { Writable } from 'node:stream';
import { removeAtExit } from '../cleanup.ts';
import { describeCommands, describeTopology } from '../describe.ts';
import { writeExamples } from '../examples.ts';
import { createLab, type Lab } from '../lab.ts';
import { affinity } from './chapters/affinity.ts';
import { clusterIp } from './chapters/cluster-ip.ts';
import { kernelView } from './chapters/kernel-view.ts';
import { labelRemoved } from './chapters/label-removed.ts';
import { nodePortCluster, nodePortLocal } from './chapters/node-port.ts';
import { podDeleted } from './chapters/pod-deleted.ts';
import { udp } from './chapters/udp.ts';
import { table } from './picture.ts';
import { type Chapter, Stage, type Verdict } from './stage.ts';
import { Terminal } from './terminal.ts';

const CHAPTERS: readonly Chapter[] = [
  clusterIp,
  podDeleted,
  labelRemoved,
  affinity,
  nodePortCluster,
  nodePortLocal,
  udp,
  kernelView,
];

export interface DemoOptions {
  readonly name: string;
  /** Value of --proxy-mode. */
  readonly mode: string;
  readonly secondsPerChapter: number;
  /** 'keep' leaves the lab up. */
  readonly afterwards: 'remove' | 'keep';
  /** The program's name as the person would type it. */
  readonly program: string;
  /** Default: standard output. */
  readonly out?: Writable;
}

async function raiseLab(options: DemoOptions, terminal: Terminal): Promise<Lab> {
  const needsCgroups = options.mode === 'ebpf' || options.mode === 'auto';
  const began = performance.now();
  const lab = await createLab({
    name: options.name,
    lifetime: options.afterwards === 'keep' ? 'kept' : 'process',
    cgroups: needsCgroups && process.getuid?.() === 0 ? 'per-pod' : 'none',
  });
  // Until the end it goes with this process, kept or not: Ctrl-C leaves nothing.
  removeAtExit(lab.name);
  const upMs = performance.now() - began;
  terminal.lines([...describeTopology(lab.plan).map((line) => `  ${line}`), '']);
  const agents = await lab.startAgents({ args: ['--proxy-mode', options.mode] });
  const readyMs = performance.now() - began - upMs;
  terminal.text(
    `The lab came up in ${(upMs / 1000).toFixed(2)} s, ${agents.length} agents (mode ${options.mode}) were ready ` +
      `${(readyMs / 1000).toFixed(2)} s later.`,
  );
  return lab;
}

async function runChapter(chapter: Chapter, number: number, stage: Stage): Promise<Verdict> {
  const { terminal } = stage;
  terminal.lines(['', terminal.style('bold', `${number}. ${chapter.title}`)]);
  terminal.text(chapter.about);
  terminal.lines(['']);
  const verdict = await chapter
    .run(stage)
    .catch((error: Error): Verdict => ({ status: 'NOT as promised', result: error.message.split('\n')[0]! }));
  const colour = verdict.status === 'as promised' ? 'green' : 'red';
  terminal.text(
    `${terminal.style(colour, verdict.status === 'as promised' ? '=>' : 'FAILED:')} ${verdict.result}`,
  );
  return verdict;
}

function sayFarewell(lab: Lab, options: DemoOptions, terminal: Terminal): void {
  terminal.lines(['', `The lab stays up. To poke at it:`]);
  terminal.lines(
    describeCommands(lab.plan, { has: 'services', program: options.program }).map((line) => `  ${line}`),
  );
}

/** Runs all of it; true when everything was as promised. */
export async function runDemo(options: DemoOptions): Promise<boolean> {
  const terminal = new Terminal(options.out ?? process.stdout);
  terminal.lines([
    terminal.style('bold', 'Triplane demo: a cluster of four nodes on this machine, in network namespaces'),
    '',
  ]);
  const lab = await raiseLab(options, terminal);
  const stage = new Stage(lab, terminal, options.secondsPerChapter);
  const verdicts: Verdict[] = [];
  for (const [i, chapter] of CHAPTERS.entries()) verdicts.push(await runChapter(chapter, i + 1, stage));
  terminal.lines(['', terminal.style('bold', 'Summary')]);
  terminal.lines(table(CHAPTERS.map(({ title }, i) => [`${i + 1}. ${title}`, verdicts[i]!.status])));
  if (options.afterwards === 'keep') {
    writeExamples(lab);
    lab.keep();
    sayFarewell(lab, options, terminal);
  } else {
    lab.down();
    terminal.lines(['', 'Everything is removed again.']);
  }
  return verdicts.every(({ status }) => status === 'as promised');
}
