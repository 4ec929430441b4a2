// `npm test`: sets up, runs every check and every test, and ends with the line `N passed, N failed[, N skipped]`.
// Arguments go to vitest: `npm test -- test/model`.
import { requireNode } from './lib/node-version.mjs';

requireNode();
import('./lib/test-run.mjs').then((module) => module.main(process.argv.slice(2)));
