/**
 * Flags and file become one Config: frozen, checked, with units in its names.
 *
 * Precedence: a flag that is given explicitly, then the file, then the default. kube-proxy ignores most flags
 * when it has --config; here the explicit flag wins and a warning names it, because a flag that silently does
 * nothing has cost people days.
 */
import { readFile } from 'node:fs/promises';
import { familyOf } from '../model/address.ts';
import { TriplaneError } from '../model/errors.ts';
import type { Address } from '../model/records.ts';
import type { SocketAddress } from '../model/socket.ts';
import { checkTogether } from './check.ts';
import { type FileValues, parseConfigFile } from './file.ts';
import type { FlagTexts } from './flags.ts';
import { OPTIONS } from './options.ts';
import { nameOf, refuse, type Setting, type Settings } from './settings.ts';
import type { OptionSpec, ValueOf } from './spec.ts';
import { BadValue, socketFromText, textOfValue, valueFromText } from './values.ts';

type Row = (typeof OPTIONS)[number];
type WorkingRow = Extract<Row, { readonly status: 'works' }>;

/** Every setting that means something to the agent, by the `key` of its row. Durations are in milliseconds. */
export type Config = { readonly [R in WorkingRow as R['key']]: ValueOf<R> };

export interface Resolved {
  readonly config: Config;
  /** All rows, for --write-config-to and /configz. */
  readonly settings: Settings;
  /** One line each. */
  readonly warnings: readonly string[];
}

/** Reads the file that --config names, if any, and resolves. Throws TP_BAD_FLAG or TP_BAD_CONFIG. */
export async function loadConfig(flags: FlagTexts): Promise<Resolved> {
  const path = flags.get('config')?.at(-1) ?? '';
  if (path === '') return resolveConfig(flags, null);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new TriplaneError('TP_BAD_CONFIG', `${path}: cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return resolveConfig(flags, parseConfigFile(text, path));
}

/** The pure part of loadConfig(). Throws TP_BAD_FLAG or TP_BAD_CONFIG with everything that is wrong, in one line. */
export function resolveConfig(flags: FlagTexts, file: FileValues | null): Resolved {
  const given = valuesFromFlags(flags);
  const settings = new Map<string, Setting>();
  for (const spec of OPTIONS as readonly OptionSpec[]) {
    settings.set(spec.key, settingOf(spec, given, file?.values ?? new Map()));
  }
  const modeWord = flags.get('proxy-mode')?.at(-1) ?? file?.modeWord ?? '';
  foldAliases(settings, modeWord);
  foldServers(settings, flags);
  checkTogether(settings);
  normalizeName(settings);
  const warnings = [...(file?.warnings ?? []), ...warningsOf(settings, modeWord, file)];
  return { config: configOf(settings), settings, warnings };
}

/** What differs between two configurations, by flag or field name: what can be taken over live, and what cannot. */
export function compareConfigs(before: Settings, after: Settings): { live: string[]; restart: string[] } {
  const live: string[] = [];
  const restart: string[] = [];
  for (const [key, setting] of after) {
    const { spec } = setting;
    if (spec.status !== 'works' || isUnnamedMode(setting)) continue;
    if (textOfValue(spec, before.get(key)!.value) === textOfValue(spec, setting.value)) continue;
    (spec.change === 'live' ? live : restart).push(spec.field === '' ? `--${spec.flag}` : spec.field);
  }
  return { live, restart };
}

/** What is in force after a changed file was taken over: the live settings of `after`, the others of `before`. */
export function takeOver(before: Resolved, after: Resolved): Resolved {
  const settings = new Map<string, Setting>();
  for (const [key, setting] of after.settings) {
    const isTaken = setting.spec.change === 'live' && !isUnnamedMode(setting);
    settings.set(key, isTaken ? setting : before.settings.get(key)!);
  }
  return { config: configOf(settings), settings, warnings: after.warnings };
}

/**
 * At a start no mode means auto. From a file that is followed it means nothing: a line that went missing is no order to
 * move a node that carries traffic.
 */
function isUnnamedMode({ spec, from }: Setting): boolean {
  return spec.key === 'proxyMode' && from === 'default';
}

function valuesFromFlags(flags: FlagTexts): Map<string, unknown> {
  const values = new Map<string, unknown>();
  const problems: string[] = [];
  for (const spec of OPTIONS as readonly OptionSpec[]) {
    const texts = flags.get(spec.flag);
    if (spec.flag === '' || texts === undefined || texts.length === 0) continue;
    // As in pflag: a list that is given twice grows, anything else is replaced.
    const list = spec.kind === 'cidrs' || spec.kind === 'nodeports' || spec.kind === 'gates';
    try {
      values.set(spec.key, valueFromText(spec, list ? texts.join(',') : texts.at(-1)!));
    } catch (error) {
      if (!(error instanceof BadValue)) throw error;
      problems.push(`--${spec.flag}: ${error.message}`);
    }
  }
  refuse('TP_BAD_FLAG', problems);
  return values;
}

function settingOf(
  spec: OptionSpec,
  flags: ReadonlyMap<string, unknown>,
  file: ReadonlyMap<string, unknown>,
): Setting {
  if (flags.has(spec.key)) return { spec, value: flags.get(spec.key), from: 'flag' };
  if (file.has(spec.key)) return { spec, value: file.get(spec.key), from: 'file' };
  return { spec, value: valueFromText(spec, spec.default), from: 'default' };
}

/** The words that a row's `modes` use: kube-proxy's default is iptables, and its nftables is our nft. */
function modeOfRows(modeWord: string): string {
  if (modeWord === '') return 'iptables';
  return modeWord === 'nftables' ? 'nft' : modeWord;
}

/** Settings that kube-proxy keeps once a mode (periods, masqueradeAll) become one: flag first, then our own field, then the section of the mode. */
function foldAliases(settings: Map<string, Setting>, modeWord: string): void {
  const mode = modeOfRows(modeWord);
  for (const main of [...settings.values()]) {
    if (main.spec.status !== 'works' || main.from === 'flag') continue;
    const aliases = [...settings.values()].filter(
      ({ spec }) => spec.status === 'alias' && spec.fold === main.spec.key && spec.modes !== undefined,
    );
    // kube-proxy: --ipvs-... counts in ipvs mode, --iptables-... in every other.
    const flag = aliases.find(
      ({ spec, from }) => from === 'flag' && spec.modes!.includes('ipvs') === (mode === 'ipvs'),
    );
    const field = aliases.find(({ spec, from }) => from === 'file' && spec.modes!.includes(mode));
    const chosen = flag ?? (main.from === 'file' ? undefined : field);
    if (chosen !== undefined)
      settings.set(main.spec.key, { ...main, value: chosen.value, from: chosen.from });
  }
}

/** Where the servers listen, from address, deprecated port flag and family of --bind-address. */
function foldServers(settings: Map<string, Setting>, flags: FlagTexts): void {
  const six = familyOf(settings.get('bindAddress')!.value as Address) === 6;
  for (const [key, portKey, addressSix] of [
    ['healthzBind', 'healthzPort', '::'],
    ['metricsBind', 'metricsPort', '::1'],
  ] as const) {
    const main = settings.get(key)!;
    const port = settings.get(portKey)!;
    const portDefault = (valueFromText(main.spec, main.spec.default) as SocketAddress).port;
    if (port.from === 'flag' && port.value === 0) {
      settings.set(key, { ...main, value: null, from: 'flag' });
    } else if (main.from === 'flag' && main.value !== null) {
      const text = flags.get(main.spec.flag)!.at(-1)!;
      settings.set(key, {
        ...main,
        value: socketFromText(text, port.from === 'flag' ? (port.value as number) : portDefault),
      });
    } else if (main.from === 'default' && six) {
      settings.set(key, { ...main, value: socketFromText(addressSix, portDefault) });
    }
  }
}

function normalizeName(settings: Map<string, Setting>): void {
  const name = settings.get('hostnameOverride')!;
  settings.set('hostnameOverride', { ...name, value: (name.value as string).trim().toLowerCase() });
}

function configOf(settings: Settings): Config {
  const config: Record<string, unknown> = {};
  for (const { spec, value } of settings.values()) {
    if (spec.status === 'works') config[spec.key] = freeze(value);
  }
  return Object.freeze(config) as Config;
}

function freeze(value: unknown): unknown {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    for (const part of Object.values(value)) freeze(part);
    Object.freeze(value);
  }
  return value;
}

function warningsOf(settings: Settings, modeWord: string, file: FileValues | null): string[] {
  const warnings: string[] = [];
  const ignored = [...settings.values()].filter(
    ({ spec, value, from }) =>
      spec.status === 'ignored' && from !== 'default' && textOfValue(spec, value) !== spec.default,
  );
  if (ignored.length > 0) {
    warnings.push(`accepted without meaning here: ${ignored.map(nameOf).join(', ')}`);
  }
  if (modeWord === 'iptables') {
    warnings.push('there is no iptables mode here: proxy mode iptables is taken as auto');
  }
  if (
    (modeWord === 'iptables' || modeWord === 'ipvs') &&
    settings.get('nodePortAddresses')!.from === 'default'
  ) {
    warnings.push(
      `NodePorts answer on the node's primary addresses; kube-proxy's ${modeWord} mode answers on all unless --nodeport-addresses says otherwise (--nodeport-addresses=all)`,
    );
  }
  for (const port of ['healthzPort', 'metricsPort']) {
    const setting = settings.get(port)!;
    if (setting.from === 'flag')
      warnings.push(
        `${nameOf(setting)} is deprecated: use --${setting.spec.flag.replace('port', 'bind-address')}`,
      );
  }
  if (settings.get('manifests')!.value !== '') {
    const unused = ['kubeconfig', 'master']
      .map((key) => settings.get(key)!)
      .filter(({ value }) => value !== '');
    if (unused.length > 0)
      warnings.push(`cluster state comes from --manifests: ${unused.map(nameOf).join(', ')} not used`);
  }
  if (file !== null) warnings.push(...overruled(settings, file));
  return warnings;
}

/** Flags that win over the file here and that kube-proxy would have ignored. */
function overruled(settings: Settings, file: FileValues): string[] {
  const flags = [...settings.values()].filter(({ spec, value, from }) => {
    if (from !== 'flag' || spec.field === '' || spec.field.startsWith('triplane.')) return false;
    if (spec.status !== 'works' || spec.group === 'Logging' || spec.key === 'hostnameOverride') return false;
    const inFile = file.values.has(spec.key) ? textOfValue(spec, file.values.get(spec.key)) : spec.default;
    return inFile !== textOfValue(spec, value);
  });
  if (flags.length === 0) return [];
  return [`given beside --config and winning over it, unlike in kube-proxy: ${flags.map(nameOf).join(', ')}`];
}
