// `npm run demo`: sets up as `npm run setup` does, then shows the main job in a lab (`triplane lab demo`).
// Arguments go there: `npm run demo -- --keep`.
import { spawn, spawnSync } from 'node:child_process';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const inRoot = (file) => path.join(root, file);
const SIGNAL_STATUS = { SIGINT: 130, SIGTERM: 143 };

const setup = spawnSync(process.execPath, [inRoot('scripts/setup.mjs')], { stdio: 'inherit' });
if (setup.status !== 0) process.exit(setup.status ?? SIGNAL_STATUS[setup.signal] ?? 1);

const args = [inRoot('bin/triplane'), 'lab', 'demo', ...process.argv.slice(2)];
const demo = spawn(process.execPath, args, { stdio: 'inherit' });
// The terminal sends Ctrl-C to both; the demo cleans up and ends, and this one ends as it does.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => demo.kill('SIGTERM'));
demo.on('exit', (status, signal) => process.exit(status ?? SIGNAL_STATUS[signal] ?? 1));
