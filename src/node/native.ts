/** The one loader of the native addon. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { TriplaneError } from '../model/errors.ts';

let loaded: Record<string, unknown> | undefined;

/** The package's root: the folder above src/ or dist/ that holds package.json. */
export function packageRoot(): string {
  let dir = import.meta.dirname;
  while (!existsSync(path.join(dir, 'package.json'))) {
    const parent = path.dirname(dir);
    if (parent === dir)
      throw new TriplaneError(
        'TP_NO_LIBRARY',
        'the package of triplane is incomplete: package.json is missing',
      );
    dir = parent;
  }
  return dir;
}

/** Throws TP_NO_LIBRARY when the addon or a shared library that it needs is missing. */
export function loadNative(): Record<string, unknown> {
  if (loaded) return loaded;
  const file = path.join(packageRoot(), 'build/Release/triplane.node');
  try {
    loaded = createRequire(import.meta.url)(file) as Record<string, unknown>;
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error);
    throw new TriplaneError(
      'TP_NO_LIBRARY',
      `the native addon cannot be loaded (${reason}): run npm run setup`,
      { cause: error },
    );
  }
  return loaded;
}
