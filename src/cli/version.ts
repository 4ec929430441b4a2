/** The version, from package.json: beside the bundle's folder or two folders above this file. */
import { readFileSync } from 'node:fs';

export function version(): string {
  for (const place of ['../package.json', '../../package.json']) {
    try {
      const { name, version: found } = JSON.parse(readFileSync(new URL(place, import.meta.url), 'utf8')) as {
        name?: string;
        version?: string;
      };
      if (name === 'triplane' && typeof found === 'string') return found;
    } catch {
      // Not there: the next place.
    }
  }
  return 'unknown';
}
