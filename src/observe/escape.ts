/** Text from the cluster or the kernel, made fit for one line of a log or a terminal. */

// C0 and C1 controls, DEL, line and paragraph separators, and the marks that turn the direction of text.
const UNPRINTABLE =
  /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\u{d800}-\u{dfff}]/gu;

/** The text with everything escaped (`\u001b`) that could start a new line, move a cursor or hide other text. */
export function escapeText(text: string): string {
  return text.replace(UNPRINTABLE, escapeOne);
}

function escapeOne(char: string): string {
  if (char === '\n') return '\\n';
  if (char === '\t') return '\\t';
  return `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`;
}
