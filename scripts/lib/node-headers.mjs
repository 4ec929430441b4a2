// Where the headers of the running Node are. node-gyp would download them from nodejs.org otherwise, which is
// slow, and impossible on a machine without the internet.
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';

function majorOfHeaders(dir) {
  const file = path.join(dir, 'include/node/node_version.h');
  if (!existsSync(file)) return undefined;
  return /#define NODE_MAJOR_VERSION (\d+)/.exec(readFileSync(file, 'utf8'))?.[1];
}

/**
 * The folder to give to `node-gyp --nodedir`, or undefined. Beside the binary for nodejs.org's archives, nvm and
 * NodeSource's packages; /usr for Debian's libnode-dev. Headers of another major version are not taken.
 */
export function findNodeHeaders() {
  const wanted = process.versions.node.split('.')[0];
  const besideTheBinary = path.resolve(realpathSync(process.execPath), '../..');
  const candidates = [process.env.npm_config_nodedir, besideTheBinary, '/usr'];
  return candidates.find((dir) => dir && majorOfHeaders(dir) === wanted);
}

/** Whether this Node came with the distribution, which packs the headers apart (libnode-dev). */
export function nodeIsTheDistributions() {
  return /^\/(usr\/)?bin\/node(js)?$/.test(realpathSync(process.execPath));
}
