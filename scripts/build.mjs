// `npm run build`: makes what runs from its sources: `node scripts/build.mjs [native|bundle]`, without an argument
// everything. Only what is older than its sources is made again.
import process from 'node:process';
import { buildAll, STEPS } from './lib/build-steps.mjs';

const name = process.argv[2];
const say = (line) => process.stdout.write(`build: ${line}\n`);
const step = name === undefined ? buildAll : STEPS[name];
const problem = step ? await step(say) : `no step "${name}"; there are ${Object.keys(STEPS).join(', ')}`;
if (problem !== undefined) {
  process.stderr.write(`build: ${problem}\n`);
  process.exitCode = 1;
}
