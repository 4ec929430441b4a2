/**
 * Turns what stands on a command line or in a file into the value of an option, and back into text.
 * Every refusal is a BadValue whose message says what is allowed; the caller puts the flag or field before it.
 */
import { familyOf, parseAddress, parseCidr } from '../model/address.ts';
import type { Address, Cidr } from '../model/records.ts';
import { formatSocket, type SocketAddress } from '../model/socket.ts';
import { formatDuration, parseDurationMs } from './duration.ts';
import type { NodePortAddresses, OptionSpec } from './spec.ts';

/** The reason why a value cannot be used, without the name of the flag or field. */
export class BadValue extends Error {}

const TRUE = new Set(['1', 't', 'T', 'true', 'TRUE', 'True']);
const FALSE = new Set(['0', 'f', 'F', 'false', 'FALSE', 'False']);

/** A value from the text of a flag. Throws BadValue. */
export function valueFromText(spec: OptionSpec, text: string): unknown {
  switch (spec.kind) {
    case 'bool':
      return boolFromText(text);
    case 'integer':
      if (!/^[+-]?\d+$/.test(text)) throw new BadValue(`${quote(text)} is not a whole number${range(spec)}`);
      return inRange(spec, Number(text), text);
    case 'number':
      if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text))
        throw new BadValue(`${quote(text)} is not a number`);
      return inRange(spec, Number(text), text);
    case 'duration':
      return durationFromText(spec, text);
    case 'text':
      return plainText(text);
    case 'address':
      return addressFromText(text);
    case 'socket':
      return text === '' || text === 'none' ? null : socketFromText(text, defaultPort(spec));
    case 'cidrs':
      return cidrsFromList(spec, splitList(text));
    case 'nodeports':
      return nodePortsFromList(splitList(text));
    case 'gates':
      return gatesFromText(text);
    case 'choice':
      // kube-proxy takes a blank mode as its default; a file's blank is "not given" by the general rule.
      return choiceFromText(spec, text === '' && spec.zero !== 'kept' ? spec.default : text);
    case 'opaque':
      return text;
  }
}

/** A value from a parsed file. undefined: the file says nothing. Throws BadValue. */
export function valueFromFile(spec: OptionSpec, raw: unknown): unknown {
  if (raw === null || raw === undefined) return undefined;
  if (spec.zero !== 'kept' && isZero(spec, raw)) return undefined;
  switch (spec.kind) {
    case 'bool':
      if (typeof raw !== 'boolean') throw new BadValue(`${show(raw)} is not true or false`);
      return raw;
    case 'integer':
      if (!Number.isInteger(raw)) throw new BadValue(`${show(raw)} is not a whole number${range(spec)}`);
      return inRange(spec, raw as number, show(raw));
    case 'number':
      if (typeof raw !== 'number') throw new BadValue(`${show(raw)} is not a number`);
      return inRange(spec, raw, show(raw));
    case 'nodeports':
      return nodePortsFromList(listFromFile(raw));
    case 'cidrs':
      return cidrsFromList(spec, spec.pair ? splitList(textFromFile(raw)) : listFromFile(raw));
    case 'gates':
      return gatesFromFile(raw);
    case 'opaque':
      return raw;
    default:
      return valueFromText(spec, textFromFile(raw));
  }
}

/** The value as the flag would be written; what the reference page and --write-config-to show. */
export function textOfValue(spec: OptionSpec, value: unknown): string {
  switch (spec.kind) {
    case 'duration':
      return formatDuration(value as number);
    case 'socket':
      return value === null ? 'none' : formatSocket(value as SocketAddress);
    case 'cidrs':
      return (value as readonly Cidr[]).join(',');
    case 'nodeports':
      return nodePortsToList(value as NodePortAddresses).join(',');
    case 'gates':
      return Object.entries(value as Record<string, boolean>)
        .map(([name, on]) => `${name}=${on}`)
        .join(',');
    default:
      return String(value);
  }
}

export function nodePortsToList(value: NodePortAddresses): readonly string[] {
  return value.by === 'primary' ? ['primary'] : value.cidrs;
}

/** `host:port`, `[v6]:port`, or a bare address, which takes `portDefault`. Throws BadValue. */
export function socketFromText(text: string, portDefault: number): SocketAddress {
  const bare = parseAddress(text);
  if (bare !== null) return { address: bare, port: portDefault };
  const parts = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d+)$/.exec(text);
  const address = parts === null ? null : parseAddress(parts[1] ?? parts[2]!);
  if (parts === null || address === null) {
    throw new BadValue(`${quote(text)} is not an address with a port, such as 0.0.0.0:10256 or [::]:10256`);
  }
  const port = Number(parts[3]);
  if (port < 1 || port > 65535) throw new BadValue(`${quote(text)}: the port must be within 1-65535`);
  return { address, port };
}

/** For messages: control characters and quotes cannot break out of it. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}…` : text);
}

function boolFromText(text: string): boolean {
  if (TRUE.has(text)) return true;
  if (FALSE.has(text)) return false;
  throw new BadValue(`${quote(text)} is not true or false`);
}

function durationFromText(spec: OptionSpec, text: string): number {
  const durationMs = parseDurationMs(text);
  if (durationMs === null) {
    throw new BadValue(`${quote(text)} is not a duration with units, such as 30s, 1m30s or 500ms`);
  }
  if (spec.min !== undefined && durationMs < spec.min) {
    throw new BadValue(`${quote(text)} must be ${spec.min === 0 ? '0 or more' : 'greater than 0'}`);
  }
  return durationMs;
}

function plainText(text: string): string {
  if (/[\u0000-\u001f\u007f]/.test(text)) throw new BadValue(`${quote(text)} holds a control character`);
  return text;
}

function addressFromText(text: string): Address {
  const address = parseAddress(text);
  if (address === null) throw new BadValue(`${quote(text)} is not an IP address`);
  return address;
}

function choiceFromText(spec: OptionSpec, text: string): string {
  const choices = spec.choices ?? [];
  const ours = Object.hasOwn(spec.as ?? {}, text) ? spec.as![text]! : text;
  if (choices.includes(ours)) return ours;
  const allowed = [...choices, ...Object.keys(spec.as ?? {})].join(', ');
  throw new BadValue(`${quote(text)} is not one of ${allowed}`);
}

function gatesFromText(text: string): Record<string, boolean> {
  const gates: Record<string, boolean> = {};
  for (const pair of splitList(text)) {
    const at = pair.indexOf('=');
    if (at < 1) throw new BadValue(`${quote(pair)} is not of the form name=true or name=false`);
    gates[pair.slice(0, at).trim()] = boolFromText(pair.slice(at + 1).trim());
  }
  return gates;
}

function gatesFromFile(raw: unknown): Record<string, boolean> {
  if (typeof raw !== 'object' || Array.isArray(raw))
    throw new BadValue(`${show(raw)} is not a map of names to true or false`);
  for (const [name, on] of Object.entries(raw as object)) {
    if (typeof on !== 'boolean') throw new BadValue(`${name}: ${show(on)} is not true or false`);
  }
  return raw as Record<string, boolean>;
}

function cidrsFromList(spec: OptionSpec, list: readonly string[]): readonly Cidr[] {
  const cidrs = list.map(cidrFromText);
  if (
    spec.pair &&
    (cidrs.length > 2 || (cidrs.length === 2 && familyOf(cidrs[0]!) === familyOf(cidrs[1]!)))
  ) {
    throw new BadValue(`${quote(list.join(','))} must be one CIDR, or a pair of one IPv4 and one IPv6 CIDR`);
  }
  return cidrs;
}

function nodePortsFromList(list: readonly string[]): NodePortAddresses {
  if (list.length === 0 || (list.length === 1 && list[0] === 'primary')) return { by: 'primary' };
  if (list.length === 1 && list[0] === 'all') {
    return { by: 'cidrs', cidrs: ['0.0.0.0/0', '::/0'].map(cidrFromText) };
  }
  if (list.some((item) => item === 'primary' || item === 'all')) {
    throw new BadValue(`${quote(list.join(','))}: primary and all stand alone, without CIDRs`);
  }
  return { by: 'cidrs', cidrs: list.map(cidrFromText) };
}

function cidrFromText(text: string): Cidr {
  const cidr = parseCidr(text);
  if (cidr === null)
    throw new BadValue(`${quote(text)} is not a CIDR, such as 10.100.0.0/16 or fd00:10::/64`);
  return cidr;
}

function splitList(text: string): string[] {
  return text.trim() === '' ? [] : text.split(',').map((item) => item.trim());
}

function listFromFile(raw: unknown): readonly string[] {
  if (!Array.isArray(raw)) throw new BadValue(`${show(raw)} is not a list`);
  return raw.map(textFromFile);
}

function textFromFile(raw: unknown): string {
  if (typeof raw !== 'string') throw new BadValue(`${show(raw)} is not a text (it may need quotes)`);
  return raw;
}

function isZero(spec: OptionSpec, raw: unknown): boolean {
  if (raw === '' || raw === 0 || raw === false) return true;
  if (spec.kind === 'opaque' && raw === '0') return true;
  if (Array.isArray(raw)) return raw.length === 0;
  if (spec.kind === 'duration') return typeof raw === 'string' && parseDurationMs(raw) === 0;
  return typeof raw === 'object' && raw !== null && Object.keys(raw).length === 0;
}

function inRange(spec: OptionSpec, value: number, text: string): number {
  if (value < (spec.min ?? -2147483648) || value > (spec.max ?? 2147483647)) {
    throw new BadValue(`${text} must be${range(spec)}`);
  }
  return value;
}

function range(spec: OptionSpec): string {
  if (spec.min === undefined && spec.max === undefined) return '';
  if (spec.max === undefined) return ` of ${spec.min} or more`;
  return ` within ${spec.min} and ${spec.max}`;
}

function defaultPort(spec: OptionSpec): number {
  return Number(spec.default.slice(spec.default.lastIndexOf(':') + 1));
}

function show(raw: unknown): string {
  return typeof raw === 'string' ? quote(raw) : (JSON.stringify(raw) ?? String(raw)).slice(0, 100);
}
