/** `triplane lab`: a Kubernetes-shaped network on this machine, in network namespaces. */
import path from 'node:path';
import process from 'node:process';
import { Command, InvalidArgumentError, Option } from 'commander';
import { removeAtExit } from '../lab/cleanup.ts';
import { runDemo } from '../lab/demo/demo.ts';
import { describeCommands, describeTopology } from '../lab/describe.ts';
import { writeExamples } from '../lab/examples.ts';
import { createLab, openLab } from '../lab/lab.ts';
import { packageRoot } from '../lab/paths.ts';
import { defaultNodes, defaultPods, type LabSpec, type NodeSpec } from '../lab/plan.ts';
import { isAlive } from '../lab/processes.ts';
import type { CallOptions, CallProtocol, CallResult } from '../lab/results.ts';
import { listLabs, readState } from '../lab/state.ts';
import { downLab } from '../lab/teardown.ts';
import { isInsideUserNamespace, reexecUnprivileged } from '../lab/unprivileged.ts';
import { TriplaneError } from '../model/errors.ts';

const MODES = ['nft', 'ipvs', 'ebpf', 'auto'];
const SIGNAL_STATUS = 128;

function say(lines: readonly string[]): void {
  process.stdout.write(`${lines.join('\n')}\n`);
}

/** As the person typed it: bin/triplane from a checkout, triplane from the PATH. */
function programName(): string {
  const called = process.argv[1] ?? 'triplane';
  const inPath = (process.env.PATH ?? '').split(':').includes(path.dirname(called));
  return inPath ? path.basename(called) : path.relative(process.cwd(), called) || called;
}

function wholeNumber(lowest: number, highest: number) {
  return (text: string): number => {
    const n = Number(text);
    if (Number.isInteger(n) && n >= lowest && n <= highest) return n;
    throw new InvalidArgumentError(`A whole number from ${lowest} to ${highest}.`);
  };
}

/** The lab refuses what cannot be with RangeErrors; on the command line those are bad flags. */
async function asked<T>(work: () => Promise<T> | T): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof RangeError) throw new TriplaneError('TP_BAD_FLAG', error.message, { cause: error });
    throw error;
  }
}

export interface UpOptions {
  readonly name: string;
  readonly workers: number;
  readonly families: string;
  readonly podNetwork: 'routed' | 'bridged';
  readonly txChecksum: 'on' | 'off';
  readonly cgroups?: boolean;
  readonly remote?: boolean;
  readonly mode?: string;
}

function specOf(options: UpOptions): LabSpec {
  const families = options.families.split(',').map(Number);
  if (families.some((family) => family !== 4 && family !== 6)) {
    throw new RangeError(`--families "${options.families}": 4, 6, "4,6" or "6,4"`);
  }
  const nodes = defaultNodes(options.workers);
  const remote: NodeSpec[] = options.remote ? [{ name: 'remote1', agent: 'none' }] : [];
  const remotePods = options.remote
    ? [{ name: 'remotepod1', node: 'remote1', labels: { app: 'remote' } }]
    : [];
  return {
    name: options.name,
    nodes: [...nodes, ...remote],
    pods: [...defaultPods(nodes), ...remotePods],
    families: families as (4 | 6)[],
    podNetwork: options.podNetwork,
    txChecksum: options.txChecksum,
    cgroups: options.cgroups || options.mode === 'ebpf' || options.mode === 'auto' ? 'per-pod' : 'none',
    lifetime: 'kept',
  };
}

/** Builds a lab that stays, and says how to use it. */
export async function labUp(options: UpOptions): Promise<void> {
  if (process.getuid?.() !== 0 || isInsideUserNamespace()) {
    throw new TriplaneError(
      'TP_NO_PRIVILEGE',
      'a lab that outlives the command needs root; lab demo does not',
    );
  }
  const began = performance.now();
  const lab = await asked(() => createLab(specOf(options)));
  removeAtExit(lab.name);
  if (options.mode) {
    writeExamples(lab);
    await lab.startAgents({ args: ['--proxy-mode', options.mode] });
  }
  lab.keep();
  const seconds = ((performance.now() - began) / 1000).toFixed(2);
  const has = options.mode ? 'services' : 'no services';
  say([`Lab ${lab.name} is up (${seconds} s).`, '', ...describeTopology(lab.plan), '']);
  say(describeCommands(lab.plan, { has, program: programName() }));
}

/** Removes one lab, or all. There being none is fine. */
export function labDown(options: { readonly name: string; readonly all?: boolean }): void {
  for (const name of options.all ? listLabs() : [options.name]) {
    const removed = downLab(name);
    if (!removed) say([`There is no lab ${name}.`]);
    else say([`Lab ${name} is removed: ${removed.processes} processes, ${removed.namespaces} namespaces.`]);
  }
}

/** What stands, and what runs in it. */
export function labStatus(options: { readonly name?: string }): void {
  const names = options.name ? [options.name] : listLabs();
  if (!names.length) say(['There is no lab.']);
  for (const name of names) {
    const state = readState(name);
    if (!state) throw new TriplaneError('TP_BAD_FLAG', `there is no lab ${name}`);
    const owner =
      state.plan.lifetime === 'kept'
        ? 'kept'
        : isAlive(state.owner)
          ? `of process ${state.owner.pid}`
          : 'left behind';
    say([`Lab ${name} (${owner})`, ...describeTopology(state.plan), '']);
    for (const entry of state.processes) {
      say([
        `${entry.role.padEnd(6)} ${entry.name.padEnd(16)} pid ${entry.pid}  ${isAlive(entry) ? 'runs' : 'gone'}`,
      ]);
    }
  }
}

export interface LabCallOptions {
  readonly name: string;
  readonly count: number;
  readonly concurrency: number;
  readonly timeoutMs: number;
  readonly sourcePort?: number;
  readonly bind?: string;
  readonly close: 'rst' | 'fin' | 'server';
  readonly unconnected?: boolean;
  readonly path: string;
  readonly output: 'text' | 'json';
}

function describeResult(result: CallResult): string[] {
  const share = (n: number) => `${((n / result.total) * 100).toFixed(1)}%`;
  const counts = (of: Readonly<Record<string, number>>, what: string) =>
    Object.entries(of).map(
      ([name, n]) => `${what} ${name.padEnd(24)} ${String(n).padStart(8)}  ${share(n).padStart(6)}`,
    );
  const { ok, ...failures } = result.outcomes;
  const { p50, p99, max } = result.latencyUs;
  return [
    `${result.total} requests, ${ok} answered, in ${result.elapsedMs.toFixed(0)} ms (p50 ${p50} us, p99 ${p99} us, max ${max} us)`,
    ...counts(result.pods, 'answered by'),
    ...counts(result.peers, 'saw source '),
    ...Object.entries(failures).flatMap(([name, n]) => (n ? counts({ [name]: n }, 'failed:    ') : [])),
  ];
}

/** Requests from a pod, a node or the client; ends with status 1 when one failed. */
export async function labCall(words: readonly string[], options: LabCallOptions): Promise<void> {
  const [from, protocol, address, port] = words as [string, CallProtocol, string, string];
  const socket = options.unconnected ? 'unconnected' : 'connected';
  const { count, concurrency, timeoutMs, sourcePort, bind, close } = options;
  const call: CallOptions = {
    count,
    concurrency,
    timeoutMs,
    sourcePort,
    bind,
    close,
    path: options.path,
    socket,
  };
  const result = await asked(() =>
    openLab(options.name).place(from).call(protocol, address, Number(port), call),
  );
  say(options.output === 'json' ? [JSON.stringify(result)] : describeResult(result));
  if (result.outcomes.ok !== result.total) process.exit(1);
}

/** Runs a program inside a place, with this checkout's triplane in its PATH; ends as it does. */
export async function labExec(
  from: string,
  command: readonly string[],
  options: { readonly name: string },
): Promise<void> {
  const given = command[0] === '--' ? command.slice(1) : command;
  const words = given.length ? given : [process.env.SHELL ?? 'sh'];
  const env = { ...process.env, PATH: `${path.join(packageRoot(), 'bin')}:${process.env.PATH ?? ''}` };
  const place = await asked(() => openLab(options.name).place(from));
  const child = place.spawn(words, { stdio: 'inherit', env });
  // Ctrl-C is for the program in there.
  process.on('SIGINT', () => {});
  const status = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? SIGNAL_STATUS));
  });
  process.exit(status);
}

export interface LabDemoOptions {
  readonly name: string;
  readonly mode: string;
  readonly secondsPerChapter: number;
  readonly keep?: boolean;
}

/** The demo; ends with status 1 when something was not as promised. */
export async function labDemo(options: LabDemoOptions): Promise<void> {
  const status = await reexecUnprivileged();
  if (status !== null) process.exit(status);
  if (options.keep && isInsideUserNamespace()) {
    throw new TriplaneError('TP_NO_PRIVILEGE', '--keep: a lab that outlives the command needs root');
  }
  const { name, mode, secondsPerChapter } = options;
  const afterwards = options.keep ? 'keep' : 'remove';
  const good = await asked(() =>
    runDemo({ name, mode, secondsPerChapter, afterwards, program: programName() }),
  );
  if (!good) process.exit(1);
}

function nameOption(standard = 'lab'): Option {
  return new Option('--name <name>', 'which lab').default(standard);
}

function upCommand(): Command {
  return new Command('up')
    .description('build a lab that stays until `lab down`')
    .addOption(nameOption())
    .option('--workers <number>', 'worker nodes beside the control plane', wholeNumber(0, 100), 3)
    .option('--families <list>', '4, 6, or both; the first is the primary one', '4,6')
    .addOption(
      new Option('--pod-network <kind>', 'how pods hang on their node')
        .choices(['routed', 'bridged'])
        .default('routed'),
    )
    .addOption(
      new Option('--tx-checksum <how>', 'checksum offload on its devices')
        .choices(['on', 'off'])
        .default('on'),
    )
    .option('--cgroups', 'a cgroup for each node and each pod')
    .option('--remote', 'one more node, remote1, on which no agent runs')
    .addOption(new Option('--mode <mode>', 'run an agent on each node, with example services').choices(MODES))
    .action(labUp);
}

function callCommand(): Command {
  return new Command('call')
    .description('send requests from a pod, a node or "client", and count who answered')
    .argument('<from>', 'pod, node, or "client"')
    .argument('<protocol>', 'tcp, udp, sctp or http')
    .argument('<address>')
    .argument('<port>')
    .addOption(nameOption())
    .option('--count <number>', 'requests', wholeNumber(1, 100_000_000), 1)
    .option('--concurrency <number>', 'requests at once', wholeNumber(1, 100_000), 1)
    .option('--timeout-ms <number>', 'for each request', wholeNumber(1, 600_000), 1000)
    .option('--source-port <number>', 'the port to call from', wholeNumber(1, 65_535))
    .option('--bind <address>', 'the address to call from')
    .addOption(
      new Option('--close <how>', 'who closes a stream first')
        .choices(['rst', 'fin', 'server'])
        .default('rst'),
    )
    .option('--unconnected', 'UDP: sockets that are not connected')
    .option('--path <path>', 'HTTP: what to get', '/')
    .addOption(new Option('-o, --output <format>', 'text or json').choices(['text', 'json']).default('text'))
    .action((from, protocol, address, port, options) => labCall([from, protocol, address, port], options));
}

function demoCommand(): Command {
  return new Command('demo')
    .description('show the main job, live: services, failures, policies; removes everything at the end')
    .addOption(nameOption('demo'))
    .addOption(new Option('--mode <mode>', 'dataplane').choices(MODES).default('nft'))
    .option('--seconds-per-chapter <number>', 'how long each chapter takes', wholeNumber(1, 60), 5)
    .option('--keep', 'leave the lab up at the end, with the commands to poke at it')
    .action(labDemo);
}

export function labCommand(): Command {
  const lab = new Command('lab')
    .description('a Kubernetes-shaped network on this machine, in network namespaces')
    .enablePositionalOptions();
  lab.addCommand(upCommand());
  lab.addCommand(
    new Command('down')
      .description('remove a lab: its processes, namespaces and files; also after a crash')
      .addOption(nameOption())
      .option('--all', 'every lab')
      .action(labDown),
  );
  lab.addCommand(demoCommand());
  lab.addCommand(callCommand());
  lab.addCommand(
    new Command('exec')
      .description('run a program inside a pod, a node or "client"; without one, a shell')
      .addOption(nameOption())
      .argument('<place>', 'pod, node, or "client"')
      .argument('[command...]')
      .passThroughOptions()
      .action(labExec),
  );
  lab.addCommand(
    new Command('status')
      .description('what stands and what runs')
      .option('--name <name>', 'one lab')
      .action(labStatus),
  );
  return lab;
}
