/**
 * One copy of strings that occur in many records: node names, zones, namespaces, port names. 100,000
 * endpoints name perhaps 1,000 nodes.
 */
const POOL_MAX = 65_536;
const pool = new Map<string, string>();

export function intern(text: string): string {
  const known = pool.get(text);
  if (known !== undefined) return known;
  // Forgetting all costs only a few copies; a cluster with this many distinct names is not ours to cache.
  if (pool.size >= POOL_MAX) pool.clear();
  pool.set(text, text);
  return text;
}
