/**
 * How deep a YAML text may be nested, at a glance and never underestimated. The yaml package recurses, and
 * when V8 must compile a regular expression with the stack nearly used up it ends the process instead of
 * throwing (seen with 100,000 opening brackets on Node 20): so depth is bounded before parsing.
 */
export const NESTING_MAX = 150;

const TAB = 9;
const SPACE = 32;
const DASH = 45;
const COLON = 58;
const QUESTION = 63;

function isBlank(code: number): boolean {
  return code === SPACE || code === TAB;
}

/** The column where a line's content begins, and how many "- ", "? " and ": " stand before it. */
function readIndent(text: string, start: number): { readonly column: number; readonly indicators: number } {
  let at = start;
  let indicators = 0;
  for (; ; at++) {
    const code = text.charCodeAt(at);
    if (isBlank(code)) continue;
    const isIndicator = code === DASH || code === QUESTION || code === COLON;
    if (isIndicator && isBlank(text.charCodeAt(at + 1))) indicators++;
    else break;
  }
  return { column: at - start, indicators };
}

/** Flow collections: opening brackets that are not closed, wherever they stand. */
function flowDepth(text: string): number {
  let depth = 0;
  let deepest = 0;
  const bracket = /[[\]{}]/g;
  for (let found = bracket.exec(text); found; found = bracket.exec(text)) {
    if (found[0] === '[' || found[0] === '{') deepest = Math.max(deepest, ++depth);
    else depth = Math.max(0, depth - 1);
  }
  return deepest;
}

/** Block collections: lines of ever deeper indentation, and the indicators on them. */
function blockDepth(text: string): number {
  const levels: { readonly column: number; readonly depth: number }[] = [];
  let deepest = 0;
  for (let start = 0; start < text.length; ) {
    const { column, indicators } = readIndent(text, start);
    while (levels.length > 0 && levels.at(-1)!.column >= column) levels.pop();
    const depth = (levels.at(-1)?.depth ?? 0) + 1 + indicators;
    levels.push({ column, depth });
    deepest = Math.max(deepest, depth);
    const end = text.indexOf('\n', start);
    start = end < 0 ? text.length : end + 1;
  }
  return deepest;
}

/** An upper bound of the nesting of a YAML document. */
export function nestingOf(text: string): number {
  return flowDepth(text) + blockDepth(text);
}
