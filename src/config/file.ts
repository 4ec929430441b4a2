/**
 * Reads a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) in YAML or JSON. Like kube-proxy it reads
 * strictly first and, where only unknown or duplicate fields stand in the way, leniently with a warning that
 * names them. Fields of our own stand under `triplane:`.
 */
import { type Document, isMap, isScalar, parseAllDocuments, visit } from 'yaml';
import { TriplaneError } from '../model/errors.ts';
import { OPTIONS } from './options.ts';
import type { OptionSpec } from './spec.ts';
import { BadValue, quote, valueFromFile } from './values.ts';

export const API_VERSION = 'kubeproxy.config.k8s.io/v1alpha1';
export const KIND = 'KubeProxyConfiguration';
const FILE_BYTES_MAX = 1 << 20;

export interface FileValues {
  /** Only what the file really says, by OptionSpec.key. */
  readonly values: ReadonlyMap<string, unknown>;
  /** `mode` as it stands in the file; '' when absent. */
  readonly modeWord: string;
  readonly warnings: readonly string[];
}

interface Section {
  readonly children: Map<string, Section | OptionSpec>;
}

const TREE = buildTree();

/**
 * The values of a file. `origin` (its path) begins every message. Throws TP_BAD_CONFIG with all that is wrong
 * in one line.
 */
export function parseConfigFile(text: string, origin: string): FileValues {
  const fail = (reason: string): never => {
    throw new TriplaneError('TP_BAD_CONFIG', `${origin}: ${reason}`);
  };
  if (text.length > FILE_BYTES_MAX) fail(`is larger than ${FILE_BYTES_MAX} bytes`);
  // YAML 1.1, as Kubernetes reads it: `yes` and `on` are true.
  const documents = parseAllDocuments(text, { version: '1.1', uniqueKeys: false, logLevel: 'silent' });
  if (!Array.isArray(documents) || documents.length === 0) return fail('is empty');
  const document = documents[0] as Document;
  const broken = document.errors[0];
  if (broken !== undefined) return fail(broken.message.split('\n')[0]!.replace(/:$/, ''));
  const content = readContent(document, fail);
  checkHeader(content, fail);

  const values = new Map<string, unknown>();
  const odd: string[] = duplicateFields(document);
  const problems: string[] = [];
  readSection(content, TREE, '', { values, odd, problems });
  if (problems.length > 0) fail(problems.join('; '));
  const warnings: string[] = [];
  if (odd.length > 0) warnings.push(`${origin}: ${odd.join('; ')}; read leniently`);
  if (documents.length > 1)
    warnings.push(`${origin}: only the first of ${documents.length} documents is read`);
  const mode = content.mode;
  return { values, modeWord: typeof mode === 'string' ? mode : '', warnings };
}

function readContent(document: Document, fail: (reason: string) => never): Record<string, unknown> {
  let content: unknown;
  try {
    content = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    return fail((error as Error).message.split('\n')[0]!);
  }
  if (isEndless(content)) return fail('has a YAML alias within its own anchor');
  if (content === null || typeof content !== 'object' || Array.isArray(content)) {
    return fail(`holds no ${KIND}`);
  }
  return content as Record<string, unknown>;
}

/** A value that contains itself has no end, and cannot be printed either. */
function isEndless(content: unknown): boolean {
  try {
    JSON.stringify(content);
    return false;
  } catch {
    return true;
  }
}

function checkHeader(content: Record<string, unknown>, fail: (reason: string) => never): void {
  for (const [field, expected] of [
    ['apiVersion', API_VERSION],
    ['kind', KIND],
  ] as const) {
    const found = content[field];
    if (found === undefined || found === null || found === '')
      fail(`${field} is missing; it must be ${expected}`);
    if (found !== expected) fail(`${field}: ${quote(String(found))} must be ${expected}`);
  }
}

interface Reading {
  readonly values: Map<string, unknown>;
  readonly odd: string[];
  readonly problems: string[];
}

function readSection(content: Record<string, unknown>, section: Section, path: string, into: Reading): void {
  for (const [name, raw] of Object.entries(content)) {
    const field = path === '' ? name : `${path}.${name}`;
    if (path === '' && (name === 'apiVersion' || name === 'kind')) continue;
    const known = section.children.get(name);
    if (known === undefined) {
      into.odd.push(`unknown field ${printable(field)}${closeTo(name, section)}`);
    } else if ('children' in known) {
      if (raw === null || raw === undefined) continue;
      if (typeof raw !== 'object' || Array.isArray(raw)) into.problems.push(`${field}: is not a map`);
      else readSection(raw as Record<string, unknown>, known, field, into);
    } else {
      readValue(known, field, raw, into);
    }
  }
}

function readValue(spec: OptionSpec, field: string, raw: unknown, into: Reading): void {
  try {
    const value = valueFromFile(spec, raw);
    if (value !== undefined) into.values.set(spec.key, value);
  } catch (error) {
    if (!(error instanceof BadValue)) throw error;
    into.problems.push(`${field}: ${error.message}`);
  }
}

function duplicateFields(document: Document): string[] {
  const found: string[] = [];
  visit(document, {
    Map(_key, map, path) {
      const seen = new Set<string>();
      for (const pair of map.items) {
        const name = isScalar(pair.key) ? String(pair.key.value) : '';
        if (seen.has(name)) found.push(`duplicate field ${printable([...pathOf(path), name].join('.'))}`);
        seen.add(name);
      }
    },
  });
  return found;
}

function pathOf(path: readonly unknown[]): string[] {
  const names: string[] = [];
  for (const node of path) {
    const key = (node as { key?: unknown }).key;
    if (isScalar(key) && !isMap(node)) names.push(String(key.value));
  }
  return names;
}

function closeTo(name: string, section: Section): string {
  for (const known of section.children.keys()) {
    if (known.toLowerCase() === name.toLowerCase()) return ` (it is written ${known})`;
  }
  return '';
}

/** Field names come from a file: what is no plain name is quoted. */
function printable(field: string): string {
  return /^[\w.-]{1,100}$/.test(field) ? field : quote(field);
}

function buildTree(): Section {
  const root: Section = { children: new Map() };
  for (const spec of OPTIONS as readonly OptionSpec[]) {
    if (spec.field === '') continue;
    const parts = spec.field.split('.');
    let section = root;
    for (const part of parts.slice(0, -1)) {
      const next = section.children.get(part) ?? { children: new Map() };
      section.children.set(part, next);
      section = next as Section;
    }
    section.children.set(parts.at(-1)!, spec);
  }
  return root;
}
