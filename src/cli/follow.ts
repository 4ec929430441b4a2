/** Follows a file by its content: a mounted ConfigMap is replaced through a symbolic link that no watch shows. */
import { readFile } from 'node:fs/promises';

const POLL_MS = 2000;

/**
 * Calls `onChange` when the text of the file differs from what it was last. A file that is gone or cannot be
 * read for a while is no change. Returns the function that ends it.
 */
export function followFile(
  path: string,
  textNow: string,
  onChange: () => void,
  pollMs = POLL_MS,
): () => void {
  let last = textNow;
  let ended = false;
  let timer: NodeJS.Timeout | undefined;
  const look = async (): Promise<void> => {
    const text = await readFile(path, 'utf8').catch(() => last);
    if (ended) return;
    if (text !== last) {
      last = text;
      onChange();
    }
    timer = setTimeout(look, pollMs).unref();
  };
  timer = setTimeout(look, pollMs).unref();
  return () => {
    ended = true;
    clearTimeout(timer);
  };
}
