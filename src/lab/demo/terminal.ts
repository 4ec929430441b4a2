/** What the demo writes: plain text, and on a terminal colours and lines that change in place. */
import type { WriteStream } from 'node:tty';

const COLUMNS_MAX = 100;
const CODES = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 } as const;
export type Style = keyof typeof CODES;

/** How many columns a text takes: without escape sequences. */
export function visibleLength(text: string): number {
  return [...text.replace(/\x1b\[\d+m/g, '')].length;
}

/** Cuts to a number of visible columns; escape sequences before the cut stay whole. */
export function cut(text: string, columns: number): string {
  if (visibleLength(text) <= columns) return text;
  let room = columns - 1;
  let out = '';
  for (const [part] of text.matchAll(/\x1b\[\d+m|./gsu)) {
    if (part.startsWith('\x1b')) out += part;
    else if (room-- > 0) out += part;
  }
  return `${out}…`;
}

/** Lines of at most `columns`, broken at blanks. */
export function wrap(text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(/\s+/)) {
    if (line && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else line = line ? `${line} ${word}` : word;
  }
  return line ? [...lines, line] : lines;
}

export class Terminal {
  readonly columns: number;
  readonly #out: NodeJS.WritableStream;
  readonly #live: boolean;
  readonly #colour: boolean;
  #liveLines = 0;

  constructor(
    out: NodeJS.WritableStream & Partial<Pick<WriteStream, 'isTTY' | 'columns'>>,
    env = process.env,
  ) {
    this.#out = out;
    this.#live = out.isTTY === true && env.TERM !== 'dumb';
    this.#colour = this.#live && !env.NO_COLOR;
    this.columns = Math.max(60, Math.min(COLUMNS_MAX, out.columns ?? COLUMNS_MAX));
  }

  style(style: Style, text: string): string {
    return this.#colour ? `\x1b[${CODES[style]}m${text}\x1b[0m` : text;
  }

  /** Lines that stay; what is live above them is over. */
  lines(lines: readonly string[]): void {
    this.#erase();
    for (const line of lines) this.#out.write(`${cut(line, this.columns)}\n`);
  }

  text(text: string): void {
    this.lines(wrap(text, this.columns));
  }

  /** Lines that the next call replaces. Nothing where lines cannot change: the end result is said by lines(). */
  live(lines: readonly string[]): void {
    if (!this.#live) return;
    this.#erase();
    for (const line of lines) this.#out.write(`${cut(line, this.columns)}\n`);
    this.#liveLines = lines.length;
  }

  #erase(): void {
    if (this.#liveLines) this.#out.write(`\x1b[${this.#liveLines}A\x1b[J`);
    this.#liveLines = 0;
  }
}
