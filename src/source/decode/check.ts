/**
 * Reading fields of objects that nobody has checked. A reader returns the value or throws Refused, which
 * `guarded` in identity.ts turns into an outcome; nothing else may escape a decoder.
 */

/** A plain object of unknown content. */
export type Raw = Readonly<Record<string, unknown>>;

/** Why an object (or one entry of a list in it) is refused: one line that names the field. */
export class Refused extends Error {}

const SHOWN_MAX = 64;

/**
 * A value as it may be printed: quoted, cut to 64 characters, and pure ASCII without control characters, so
 * that a hostile name can neither forge log lines nor turn a terminal upside down.
 */
export function show(value: unknown): string {
  if (value === undefined || value === null) return 'nothing';
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint')
    return String(value);
  if (Array.isArray(value)) return 'a list';
  if (typeof value !== 'string') return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
  const cut = value.length > SHOWN_MAX;
  const quoted = JSON.stringify(cut ? value.slice(0, SHOWN_MAX) : value).replace(
    /[^\x20-\x7e]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return cut ? `${quoted}... (${value.length} characters)` : quoted;
}

/** An error's message as it may be printed: one line, printable ASCII, at most 300 characters. */
export function oneLine(text: string): string {
  return text
    .slice(0, 300)
    .replace(/\s+/g, ' ')
    .replace(/[^\x20-\x7e]/g, '?')
    .trim();
}

export function isRaw(value: unknown): value is Raw {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** An own field; a name such as "constructor" must not find what the prototype has. */
function get(parent: Raw, name: string): unknown {
  return Object.hasOwn(parent, name) ? parent[name] : undefined;
}

function refuse(path: string, value: unknown, wanted: string): never {
  throw new Refused(`${path} is ${show(value)}, not ${wanted}`);
}

/** A sub-object; an absent one reads as empty. */
export function objectAt(parent: Raw, name: string, path: string): Raw {
  const value = get(parent, name) ?? {};
  return isRaw(value) ? value : refuse(path, value, 'an object');
}

/** A list; an absent one reads as empty. */
export function listAt(parent: Raw, name: string, path: string): readonly unknown[] {
  const value = get(parent, name) ?? [];
  return Array.isArray(value) ? value : refuse(path, value, 'a list');
}

/** A string; an absent one reads as ''. */
export function textAt(parent: Raw, name: string, path: string): string {
  const value = get(parent, name) ?? '';
  return typeof value === 'string' ? value : refuse(path, value, 'a string');
}

/** A truth value or null when absent. */
export function flagAt(parent: Raw, name: string, path: string): boolean | null {
  const value = get(parent, name) ?? null;
  return value === null || typeof value === 'boolean' ? value : refuse(path, value, 'true or false');
}

/** One of a few words; an absent one reads as the default. */
export function wordAt<W extends string>(
  parent: Raw,
  name: string,
  path: string,
  words: readonly W[],
  absent: W,
): W {
  const value = get(parent, name) ?? '';
  if (value === '') return absent;
  return words.find((word) => word === value) ?? refuse(path, value, words.join(', '));
}

/** An integer within bounds; an absent one reads as null. */
export function integerAt(
  parent: Raw,
  name: string,
  path: string,
  bounds: { readonly min: number; readonly max: number },
): number | null {
  const value = get(parent, name) ?? null;
  if (value === null) return null;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < bounds.min || value > bounds.max) {
    refuse(path, value, `an integer from ${bounds.min} to ${bounds.max}`);
  }
  return value;
}

/** RFC 3339 to milliseconds since the epoch; an absent time reads as 0. */
export function timeAt(parent: Raw, name: string, path: string): number {
  const text = textAt(parent, name, path);
  if (text === '') return 0;
  const time = text.length <= 40 ? Date.parse(text) : Number.NaN;
  return Number.isNaN(time) ? refuse(path, text, 'a time as in RFC 3339') : time;
}
