/**
 * Text of a manifest -> its documents, one by one. The yaml package reads about 3 MB a second, so a large
 * file is cut where YAML itself allows it (at document markers, and between the items of a List), and the
 * event loop gets its turn in between. JSON takes the fast road.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LineCounter, parseDocument } from 'yaml';
import { oneLine } from '../decode/check.ts';
import { NESTING_MAX, nestingOf } from './nesting.ts';

export interface ManifestDocument {
  /** "document 3", or "document 3 item 7" where a List was cut. Numbers start at 1. */
  readonly label: string;
  /** The parsed value; undefined when `error` says why there is none. */
  readonly value?: unknown;
  /** '' or one line with the line number in the file. */
  readonly error: string;
}

/** How long the event loop may wait for us. */
const TURN_MS_MAX = 10;
const ALIASES_MAX = 100;
/** Smaller documents are not worth cutting. */
const CUT_LIST_CHARS_MIN = 64 * 1024;

interface Chunk {
  readonly text: string;
  /** Lines before it in the file. */
  readonly line: number;
}

function countLines(text: string): number {
  let lines = 0;
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) lines++;
  return lines;
}

/** Whether nothing is in it but comments, blank lines and directives. */
function isBlank(text: string): boolean {
  return !/^(?!---(?:\s|$))[ \t]*[^\s#%]|^---[ \t]+[^\s#]/m.test(text);
}

/**
 * Cuts a stream at lines that begin with "---" or "...". YAML forbids such a line inside any scalar, so no
 * document is torn (YAML 1.2.2, 9.1.2).
 */
function* documentChunks(text: string): Generator<Chunk> {
  const marker = /^(?:---|\.\.\.)(?=[ \t\r\n]|$)/gm;
  let start = 0;
  let line = 0;
  for (let found = marker.exec(text); ; found = marker.exec(text)) {
    const end = found ? found.index : text.length;
    const chunk = text.slice(start, end);
    if (!isBlank(chunk)) yield { text: chunk, line };
    if (!found) return;
    line += countLines(chunk);
    // "---" stays with its document, which may begin on the same line; "..." belongs to nobody.
    start = found[0] === '---' ? found.index : found.index + 3;
  }
}

/** A YAML document as plain JSON values; throws an Error of one line. */
function parseYaml(chunk: Chunk): unknown {
  if (nestingOf(chunk.text) > NESTING_MAX) throw new Error(`line ${chunk.line + 1}: is nested too deep`);
  const lines = new LineCounter();
  const document = parseDocument(chunk.text, {
    schema: 'core',
    merge: true,
    logLevel: 'silent',
    prettyErrors: false,
    lineCounter: lines,
  });
  // An unknown tag is only a warning to the parser, but nobody can say what its author meant.
  const fault = document.errors[0] ?? document.warnings[0];
  if (fault)
    throw new Error(`line ${chunk.line + lines.linePos(fault.pos[0]).line}: ${oneLine(fault.message)}`);
  // The round trip gives every string a memory of its own: a slice would hold on to the file's whole text.
  return JSON.parse(JSON.stringify(document.toJS({ maxAliasCount: ALIASES_MAX }) ?? null));
}

/** JSON values one after the other, or null when it is not JSON. */
function parseJsonValues(text: string): unknown[] | null {
  try {
    return [JSON.parse(text)];
  } catch {
    // Between "}" and "{" JSON wants a comma, and no string holds a raw newline: only separate values match.
    const cut = text.split(/(?<=\})[ \t\r]*\n\s*(?=\{)/);
    if (cut.length === 1) return null;
    try {
      return cut.map((part) => JSON.parse(part));
    } catch {
      return null;
    }
  }
}

/**
 * Cuts a List in block style between its items: `items:` in the first column, items at one indentation.
 * Within an item every line is indented deeper than its dash, so that no item is torn. The first chunk is
 * the list without its items. Null when the document has not this shape.
 */
function cutList(chunk: Chunk): { readonly head: Chunk; readonly items: readonly Chunk[] } | null {
  if (chunk.text.length < CUT_LIST_CHARS_MIN) return null;
  // An alias would lose its anchor in another item; such a list (or one that looks so) is read in one piece.
  if (/(?:^|[\s[{,])&\w/m.test(chunk.text)) return null;
  const opening = /^items:[ \t]*(?:#.*)?\r?\n(?:[ \t]*(?:#.*)?\r?\n)*( *)-(?=[ \t\r\n])/m.exec(chunk.text);
  if (!opening || !/^kind:[ \t]*["']?\w*List\b/m.test(chunk.text)) return null;
  const first = opening.index + opening[0].length - 1 - opening[1]!.length;
  const body = chunk.text.slice(first);
  const closing = /^(?!-[ \t\r\n])[^\s#]/m.exec(body);
  const inside = closing ? body.slice(0, closing.index) : body;
  const rest = closing ? body.slice(closing.index) : '';
  const dash = new RegExp(`^ {${opening[1]!.length}}-(?=[ \\t\\r\\n])`, 'gm');
  const starts = [...inside.matchAll(dash)].map((match) => match.index);
  let line = chunk.line + countLines(chunk.text.slice(0, first));
  const items = starts.map((start, i) => {
    const item = { text: inside.slice(start, starts[i + 1] ?? inside.length), line };
    line += countLines(item.text);
    return item;
  });
  return {
    head: { text: `${chunk.text.slice(0, opening.index)}items: []\n${rest}`, line: chunk.line },
    items,
  };
}

function fail(label: string, error: unknown): ManifestDocument {
  return { label, error: oneLine(error instanceof Error ? error.message : String(error)) };
}

/** The documents of one chunk, without a pause. */
function* parseChunk(chunk: Chunk, label: string): Generator<ManifestDocument> {
  const body = chunk.text.replace(/^---/, '').trim();
  const json = body.startsWith('{') ? parseJsonValues(body) : null;
  if (json) {
    for (const value of json) yield { label, value, error: '' };
    return;
  }
  try {
    yield { label, value: parseYaml(chunk), error: '' };
  } catch (error) {
    yield fail(label, error);
  }
}

/** A List cut into items; the items come first, each as a list of its own with the head's kind. */
function* parseCutList(chunk: Chunk, label: string): Generator<ManifestDocument> {
  const cut = cutList(chunk);
  if (!cut) {
    yield* parseChunk(chunk, label);
    return;
  }
  let head: Record<string, unknown>;
  try {
    head = parseYaml(cut.head) as Record<string, unknown>;
  } catch (error) {
    yield fail(label, error);
    return;
  }
  for (const [i, item] of cut.items.entries()) {
    const itemLabel = `${label} item ${i + 1}`;
    try {
      yield { label: itemLabel, value: { ...head, items: parseYaml(item) }, error: '' };
    } catch (error) {
      yield fail(itemLabel, error);
    }
  }
}

/**
 * The documents of a manifest in their order. Never throws for what the text says; empty documents are left
 * out. Anchors are known within their document.
 */
export async function* parseManifest(text: string): AsyncGenerator<ManifestDocument> {
  const plain = text.startsWith('\ufeff') ? text.slice(1) : text;
  let turn = performance.now();
  let number = 0;
  for (const chunk of documentChunks(plain)) {
    number++;
    for (const document of parseCutList(chunk, `document ${number}`)) {
      if (document.error === '' && document.value === null) continue;
      yield document;
      if (performance.now() - turn > TURN_MS_MAX) {
        await nextTurn();
        turn = performance.now();
      }
    }
  }
}
