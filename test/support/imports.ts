import path from 'node:path';

export interface Import {
  /** A path from the root of the checkout, or a package's name as written. */
  readonly target: string;
  /** Leaves no trace in the running program. */
  readonly typeOnly: boolean;
}

const STATIC = /^\s*(?:import|export)\s+(type\s+)?([^'";]*?)\s*from\s+'([^']+)'/gm;
const BARE = /^\s*import\s+'([^']+)'/gm;
const DYNAMIC = /\bimport\(\s*'([^']+)'\s*\)/g;
/** A file that is started as a process or thread of its own. */
const BY_URL = /new URL\(\s*'([^']+\.ts)'\s*,\s*import\.meta\.url\s*\)/g;

function onlyTypes(clause: string): boolean {
  const names = /^\{([\s\S]*)\}$/.exec(clause.trim());
  if (!names) return false;
  return names[1]!
    .split(',')
    .map((name) => name.trim())
    .filter(Boolean)
    .every((name) => name.startsWith('type '));
}

/**
 * What a file imports. Regular expressions are enough: Biome has put every import into one shape, and the tidy
 * test would rather be too strict than need a parser.
 */
export function importsOf(file: string, text: string): Import[] {
  const resolve = (specifier: string) =>
    specifier.startsWith('.') ? path.posix.join(path.posix.dirname(file), specifier) : specifier;
  const found: Import[] = [];
  for (const [, type, clause, specifier] of text.matchAll(STATIC)) {
    found.push({ target: resolve(specifier!), typeOnly: type !== undefined || onlyTypes(clause!) });
  }
  for (const pattern of [BARE, DYNAMIC, BY_URL]) {
    for (const [, specifier] of text.matchAll(pattern)) {
      found.push({ target: resolve(specifier!), typeOnly: false });
    }
  }
  return found;
}

/** The files that `starts` reach through imports, themselves included. */
export function reachable(
  starts: readonly string[],
  graph: ReadonlyMap<string, readonly Import[]>,
): Set<string> {
  const seen = new Set<string>();
  const queue = [...starts];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (seen.has(file) || !graph.has(file)) continue;
    seen.add(file);
    for (const { target } of graph.get(file)!) queue.push(target);
  }
  return seen;
}

/** Every circle of imports that exist at run time, each as "a -> b -> a". */
export function circles(graph: ReadonlyMap<string, readonly Import[]>): string[] {
  const done = new Set<string>();
  const found: string[] = [];
  const visit = (file: string, trail: readonly string[]) => {
    const start = trail.indexOf(file);
    if (start >= 0) found.push([...trail.slice(start), file].join(' -> '));
    if (start >= 0 || done.has(file)) return;
    for (const { target, typeOnly } of graph.get(file) ?? []) {
      if (!typeOnly && graph.has(target)) visit(target, [...trail, file]);
    }
    done.add(file);
  };
  for (const file of graph.keys()) visit(file, []);
  return found;
}
