/** Differences of small texts by line, as `diff -u` shows them. Pure. */

type Row = { readonly sign: ' ' | '+' | '-'; readonly line: string };

/** Length of the longest common subsequence of a[i..] and b[j..], for all i and j. */
function commonLengths(a: readonly string[], b: readonly string[]): number[][] {
  const table = Array.from({ length: a.length + 1 }, () => new Array<number>(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i]![j] =
        a[i] === b[j] ? table[i + 1]![j + 1]! + 1 : Math.max(table[i + 1]![j]!, table[i]![j + 1]!);
    }
  }
  return table;
}

function rows(a: readonly string[], b: readonly string[]): Row[] {
  const table = commonLengths(a, b);
  const out: Row[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      out.push({ sign: ' ', line: a[i++]! });
      j++;
    } else if (i < a.length && (j === b.length || table[i + 1]![j]! >= table[i]![j + 1]!)) {
      out.push({ sign: '-', line: a[i++]! });
    } else out.push({ sign: '+', line: b[j++]! });
  }
  return out;
}

/** Changed lines with `context` lines around them; "..." stands for what is left out. Empty: no difference. */
export function lineDiff(before: string, after: string, context: number): string[] {
  const split = (text: string) => (text === '' ? [] : text.replace(/\n$/, '').split('\n'));
  const all = rows(split(before), split(after));
  const near = (at: number) =>
    all.slice(Math.max(0, at - context), at + context + 1).some((row) => row.sign !== ' ');
  const out: string[] = [];
  let gap = false;
  for (const [at, row] of all.entries()) {
    if (!near(at)) {
      gap = true;
      continue;
    }
    if (gap && out.length) out.push('  ...');
    gap = false;
    out.push(`${row.sign} ${row.line}`);
  }
  return out;
}
