// `npm run setup`: makes this checkout run on a fresh Debian 12+ or Ubuntu 22.04+ machine. Needs nothing but
// Node; says nothing when there is nothing to do. Everything else is in lib/ (see lib/node-version.mjs for why).
import { requireNode } from './lib/node-version.mjs';

requireNode();
import('./lib/setup.mjs').then((module) => module.main());
