/** The configuration as a KubeProxyConfiguration: what --write-config-to writes and /configz shows. */
import { stringify } from 'yaml';
import type { Cidr } from '../model/records.ts';
import { API_VERSION, KIND } from './file.ts';
import type { Settings } from './settings.ts';
import type { NodePortAddresses, OptionSpec } from './spec.ts';
import { nodePortsToList, textOfValue } from './values.ts';

/** A plain object with kube-proxy's field names; our own settings under `triplane`. Reading it again gives the same Config. */
export function kubeProxyConfiguration(settings: Settings): Record<string, unknown> {
  const root: Record<string, unknown> = { apiVersion: API_VERSION, kind: KIND };
  for (const { spec, value } of settings.values()) {
    if (spec.field !== '') place(root, spec.field.split('.'), fileValue(spec, value));
  }
  return sorted(root);
}

/** The same as YAML. */
export function configurationYaml(settings: Settings): string {
  return stringify(kubeProxyConfiguration(settings), { version: '1.1', lineWidth: 0 });
}

/** Each flag with the value in force, wherever that came from, as it would be written on the command line: for /flagz. */
export function flagValues(settings: Settings): Record<string, string> {
  const rows = [...settings.values()].filter(({ spec }) => spec.flag !== '');
  const texts = rows.map(({ spec, value }): [string, string] => [
    spec.flag,
    spec.kind === 'choice' ? kubeProxyWord(spec, value as string) : textOfValue(spec, value),
  ]);
  return Object.fromEntries(texts.sort(([a], [b]) => (a < b ? -1 : 1)));
}

function fileValue(spec: OptionSpec, value: unknown): unknown {
  switch (spec.kind) {
    case 'bool':
    case 'integer':
    case 'number':
    case 'gates':
    case 'opaque':
      return value;
    case 'cidrs':
      return spec.pair ? textOfValue(spec, value) : [...(value as readonly Cidr[])];
    case 'nodeports':
      return [...nodePortsToList(value as NodePortAddresses)];
    case 'choice':
      return kubeProxyWord(spec, value as string);
    default:
      return textOfValue(spec, value);
  }
}

/** Where kube-proxy has a word of its own for exactly this choice (nftables for nft), that one: it must be able to read the file. */
function kubeProxyWord(spec: OptionSpec, value: string): string {
  const words = Object.entries(spec.as ?? {}).filter(([word, ours]) => ours === value && word !== 'iptables');
  return words[0]?.[0] ?? value;
}

function place(root: Record<string, unknown>, path: readonly string[], value: unknown): void {
  let section = root;
  for (const part of path.slice(0, -1)) {
    section[part] ??= {};
    section = section[part] as Record<string, unknown>;
  }
  section[path.at(-1)!] = value;
}

/** By name, as kube-proxy writes its file. */
function sorted(section: Record<string, unknown>): Record<string, unknown> {
  const names = Object.keys(section).sort();
  return Object.fromEntries(
    names.map((name) => {
      const value = section[name];
      const nested = typeof value === 'object' && value !== null && !Array.isArray(value);
      return [name, nested ? sorted(value as Record<string, unknown>) : value];
    }),
  );
}
