/**
 * The commands of `triplane`. Only the module of the command that is called is loaded: `triplane get` must not
 * wait for a Kubernetes client.
 */
import { Command, Help, type Option } from 'commander';
import { EXIT, type ExitCode } from './exit-with.ts';
import { failureOf } from './failure.ts';
import type { Io } from './io.ts';
import { version } from './version.ts';

interface CommandRow {
  readonly name: string;
  readonly summary: string;
  readonly load: (io: Io) => Promise<Command>;
}

const COMMANDS: readonly CommandRow[] = [
  { name: 'run', summary: 'the node agent', load: async (io) => (await import('./run.ts')).runCommand(io) },
  {
    name: 'lab',
    summary: 'a cluster-shaped network on this machine, to look at and to test with',
    load: async () => (await import('./lab.ts')).labCommand(),
  },
  {
    name: 'probe',
    summary: 'what this kernel can do for each mode, and which mode auto takes',
    load: async (io) => (await import('./probe.ts')).probeCommand(io),
  },
  {
    name: 'get',
    summary: 'what the kernel holds now: services, endpoints, connections; and the node',
    load: async (io) => (await import('./get.ts')).getCommand(io),
  },
  {
    name: 'explain',
    summary: 'what happens to a packet, and why',
    load: async (io) => (await import('./explain.ts')).explainCommand(io),
  },
  {
    name: 'switch',
    summary: 'move the running agent to another mode, keeping connections',
    load: async (io) => (await import('./switch.ts')).switchCommand(io),
  },
  {
    name: 'bench',
    summary: 'measure the modes side by side',
    load: async (io) => (await import('./bench.ts')).benchCommand(io),
  },
  {
    name: 'cleanup',
    summary: 'remove everything triplane made',
    load: async (io) => (await import('./cleanup.ts')).cleanupCommand(io),
  },
  {
    name: 'version',
    summary: 'print the version',
    load: async (io) => (await import('./version-command.ts')).versionCommand(io),
  },
];

const EXIT_CODES = `
Exit codes: 0 done, 1 failed, 2 called in a way that cannot work (flags, arguments, configuration file).
A failure is one line on standard error: triplane: CODE: what is wrong and what to do.`;

/** Runs one command to its end. `args` is without the program's name. Never throws. */
export async function runProgram(args: readonly string[], io: Io): Promise<ExitCode> {
  try {
    const chosen = chosenCommand(args);
    const program = await buildProgram(chosen, io);
    await program.parseAsync(await flagsOf(chosen, args), { from: 'user' });
    return EXIT.ok;
  } catch (error) {
    const { line, exit } = failureOf(error);
    if (line !== '') io.err(`${line}\n`);
    return exit;
  }
}

function chosenCommand(args: readonly string[]): string {
  const words = args.filter((arg) => !arg.startsWith('-'));
  return (words[0] === 'help' ? words[1] : words[0]) ?? '';
}

/** `run` takes flags as kube-proxy does; the others as everybody does. */
async function flagsOf(chosen: string, args: readonly string[]): Promise<string[]> {
  if (chosen !== 'run') return [...args];
  const { normalizeFlags } = await import('../config/flags.ts');
  return normalizeFlags(args);
}

async function buildProgram(chosen: string, io: Io): Promise<Command> {
  const program = new Command('triplane')
    .description('A Kubernetes node service proxy with three dataplanes: nftables, IPVS and eBPF.')
    .version(`triplane ${version()}`, '--version', 'print the version')
    .usage('COMMAND [options]')
    .addHelpText('after', EXIT_CODES)
    .enablePositionalOptions()
    .exitOverride()
    .configureHelp({ optionDescription })
    .configureOutput({ writeOut: io.out, writeErr: io.err, outputError: () => {} });
  for (const { name, summary, load } of COMMANDS) {
    if (name === chosen) program.addCommand(inherit(await load(io), program));
    else program.command(name).summary(summary).description(summary);
  }
  return program;
}

/** As commander has it, but for what a flag means that stands alone: "[true|false]" says it. */
function optionDescription(option: Option): string {
  if (option.optional && option.presetArg === 'true') return option.description;
  return Help.prototype.optionDescription(option);
}

/** Commands whose --help is answered by the program that they start. */
const OWN_HELP: ReadonlySet<string> = new Set(['bench']);

/** Commands that were built apart take over how the program ends and writes, all the way down. */
function inherit(command: Command, parent: Command): Command {
  command.copyInheritedSettings(parent);
  // What a command said of --help itself was just overwritten.
  if (OWN_HELP.has(command.name())) command.helpOption(false);
  for (const child of command.commands) inherit(child, command);
  return command;
}
