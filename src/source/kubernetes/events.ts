/** The lines of a watch, checked as far as a reflector relies on them. */
import { isRaw, type Raw } from '../decode/check.ts';
import { type ApiError, apiErrorOf } from './api-error.ts';
import { versionOf } from './store.ts';

/** Set on the bookmark that ends the initial events of a watch-list (KEP-3157). */
const INITIAL_END_ANNOTATION = 'k8s.io/initial-events-end';

export type WatchEvent =
  | { readonly type: 'set' | 'delete'; readonly raw: Raw; readonly version: string }
  | { readonly type: 'bookmark'; readonly version: string; readonly endsInitial: boolean }
  | { readonly type: 'error'; readonly error: ApiError };

function endsInitial(object: Raw): boolean {
  const metadata = isRaw(object.metadata) ? object.metadata : {};
  const annotations = isRaw(metadata.annotations) ? metadata.annotations : {};
  return annotations[INITIAL_END_ANNOTATION] === 'true';
}

/** Throws an Error when the line is no watch event: half a line, or a proxy's words. */
export function parseEvent(line: string): WatchEvent {
  let event: unknown;
  try {
    event = JSON.parse(line);
  } catch (cause) {
    throw new Error(`a watch event of ${line.length} characters is no JSON`, { cause });
  }
  if (!isRaw(event) || !isRaw(event.object)) throw new Error('a watch event has no object');
  const raw = event.object;
  const version = versionOf(raw);
  switch (event.type) {
    case 'ADDED':
    case 'MODIFIED':
      return { type: 'set', raw, version };
    case 'DELETED':
      return { type: 'delete', raw, version };
    case 'BOOKMARK':
      return { type: 'bookmark', version, endsInitial: endsInitial(raw) };
    case 'ERROR':
      return { type: 'error', error: apiErrorOf(500, raw, undefined) };
    default:
      throw new Error('a watch event is of no known type');
  }
}
