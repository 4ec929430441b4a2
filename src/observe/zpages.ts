/**
 * /statusz and /flagz (KEP-4827, KEP-4828), which kube-proxy 1.36 serves beside its metrics by default: text for people,
 * or a structured object for whoever names its group, version and kind in the Accept header.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { stringify } from 'yaml';
import { reply } from './http.ts';

export interface Component {
  readonly startedMs: number;
  /** Of this program. */
  readonly version: string;
  /** What else this server answers, for people who look around. */
  readonly paths: readonly string[];
}

type Kind = 'Statusz' | 'Flagz';
type Form = { readonly type: 'text' } | { readonly type: 'json' | 'yaml'; readonly version: string };
type Fields = Readonly<Record<string, unknown>>;

/** Software that looks for kube-proxy's pages finds the name it knows. */
const NAME = 'kube-proxy';
/** The kube-proxy whose behaviour this is. */
const EMULATED = '1.36';
const GROUP = 'config.k8s.io';
const VERSIONS = ['v1beta1', 'v1alpha1'];
const [TEXT, JSON_TYPE] = ['text/plain; charset=utf-8', 'application/json'];
const TYPES = { 'application/json': 'json', 'application/yaml': 'yaml' } as const;
const REFUSAL = `only the following media types are accepted: ${Object.keys(TYPES).join(', ')}, text/plain`;
const WARNING =
  'Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.';

export function answerStatusz(
  request: IncomingMessage,
  response: ServerResponse,
  { startedMs, version, paths }: Component,
): void {
  const seconds = Math.max(0, Math.floor((Date.now() - startedMs) / 1000));
  const rows = [
    ['Started', unixDate(startedMs)],
    ['Up', uptime(seconds)],
    // Where kube-proxy has Go's.
    ['Node.js version', process.version],
    ['Binary version', version],
    ['Emulation version', EMULATED],
    ['Paths', paths.join(' ')],
  ];
  answer(request, response, {
    kind: 'Statusz',
    text: `\n${rows.map(([name, value]) => `${name}: ${value}`).join('\n')}\n`,
    fields: {
      startTime: `${new Date(startedMs).toISOString().slice(0, 19)}Z`,
      uptimeSeconds: seconds,
      goVersion: `nodejs ${process.version}`,
      binaryVersion: version,
      emulationVersion: EMULATED,
      paths,
    },
  });
}

/** `flags`: by name, as they would be written on the command line. */
export function answerFlagz(
  request: IncomingMessage,
  response: ServerResponse,
  flags: Readonly<Record<string, string>>,
): void {
  const lines = Object.entries(flags).map(([name, value]) => `${name} ${value}\n`);
  answer(request, response, { kind: 'Flagz', text: lines.join(''), fields: { flags } });
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  { kind, text, fields }: { readonly kind: Kind; readonly text: string; readonly fields: Fields },
): void {
  const form = formOf(request.headers.accept ?? '', kind);
  const word = kind.toLowerCase();
  if (form === null) {
    const status = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure' };
    const body = { ...status, message: REFUSAL, reason: 'NotAcceptable', code: 406 };
    reply(response, 406, JSON_TYPE, JSON.stringify(body, null, 2));
    return;
  }
  if (form.type === 'text') {
    reply(response, 200, TEXT, `\n${NAME} ${word}\n${WARNING}\n${text}`);
    return;
  }
  const { type, version } = form;
  if (version !== VERSIONS[0])
    response.setHeader(
      'Warning',
      `299 - "This version of the ${word} endpoint is deprecated. Please use a newer version."`,
    );
  const object = { kind, apiVersion: `${GROUP}/${version}`, metadata: { name: NAME }, ...fields };
  const body =
    type === 'json' ? JSON.stringify(object, null, 2) : stringify(object, { sortMapEntries: true });
  reply(response, 200, `application/${type};g=${GROUP};v=${version};as=${kind}`, body);
}

/** The first acceptable range of the highest weight, as RFC 9110 (12.5.1) and kube-proxy have it. null: none is. */
function formOf(accept: string, kind: Kind): Form | null {
  if (accept.trim() === '') return { type: 'text' };
  const ranges = accept.split(',').map((text) => {
    const [type, ...rest] = text.split(';').map((part) => part.trim());
    const parameters = new Map(rest.map((part) => part.split('=', 2) as [string, string]));
    return { type: type!.toLowerCase(), parameters, weight: Number(parameters.get('q') ?? 1) };
  });
  for (const { type, parameters } of ranges.toSorted((a, b) => b.weight - a.weight)) {
    if (['text/plain', 'text/*', '*/*'].includes(type)) return { type: 'text' };
    const [form, version] = [new Map(Object.entries(TYPES)).get(type), parameters.get('v') ?? ''];
    const isKnown = parameters.get('g') === GROUP && parameters.get('as') === kind;
    if (form && isKnown && VERSIONS.includes(version)) return { type: form, version };
  }
  return null;
}

/** Go's time.UnixDate. */
function unixDate(ms: number): string {
  const [weekday, day, month, year, time] = new Date(ms).toUTCString().replace(',', '').split(' ');
  return `${weekday} ${month} ${String(Number(day)).padStart(2)} ${time} UTC ${year}`;
}

function uptime(seconds: number): string {
  const two = (value: number) => String(Math.floor(value)).padStart(2, '0');
  return `${Math.floor(seconds / 3600)} hr ${two((seconds / 60) % 60)} min ${two(seconds % 60)} sec`;
}
