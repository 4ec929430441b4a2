/** The flags of `triplane run`, made from the option table, with the habits of Go's pflag. */
import { type Command, Option } from 'commander';
import { OPTIONS } from './options.ts';
import { placeholder } from './placeholder.ts';
import type { OptionSpec } from './spec.ts';

/** What stood on the command line: the texts given for each flag, in order. */
export type FlagTexts = ReadonlyMap<string, readonly string[]>;

/**
 * Adds all flags to `command`. What the user gives is collected in the map returned and judged later
 * (config.ts), together with the file. No environment variable is ever read.
 */
export function addFlags(command: Command): FlagTexts {
  const texts = new Map<string, string[]>();
  for (const spec of OPTIONS as readonly OptionSpec[]) {
    if (spec.flag === '') continue;
    const option = new Option(flagSyntax(spec), flagHelp(spec)).helpGroup(`${spec.group}:`);
    if (spec.kind === 'bool') option.preset('true');
    option.argParser((text: string) => {
      texts.set(spec.flag, [...(texts.get(spec.flag) ?? []), text]);
      return text;
    });
    if (spec.status === 'ignored') option.hideHelp();
    command.addOption(option);
  }
  return texts;
}

/**
 * Rewrites what pflag understands and commander does not: `-v=2`, `--log_dir` for `--log-dir`, and
 * `--kubeconfig=` (an empty value). The rest is untouched.
 */
export function normalizeFlags(args: readonly string[]): string[] {
  const end = args.indexOf('--');
  return args.map((arg, index) => {
    if (end >= 0 && index >= end) return arg;
    const short = /^-v=?(\d+)$/.exec(arg);
    if (short !== null) return `--v=${short[1]}`;
    const long = /^(--[A-Za-z][\w-]*)(=.*)?$/s.exec(arg);
    return long === null ? arg : long[1]!.replaceAll('_', '-') + (long[2] ?? '');
  });
}

function flagSyntax(spec: OptionSpec): string {
  const name = `--${spec.flag}`;
  const syntax = spec.kind === 'bool' ? `${name} [true|false]` : `${name} <${placeholder(spec)}>`;
  return spec.flag === 'v' ? `-v, ${syntax}` : syntax;
}

function flagHelp(spec: OptionSpec): string {
  const shown = spec.default === '' || spec.default === 'false' ? '' : ` (default ${spec.default})`;
  return `${spec.help}${shown}`;
}
