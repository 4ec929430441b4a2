// Whether node_modules is what package-lock.json says, and `npm ci` when it is not.
import { existsSync, lstatSync, readFileSync } from 'node:fs';
import { inRoot } from './files.mjs';
import { lastLines, npmCommand, runQuietly } from './run.mjs';

function lockedPackages(file) {
  const packages = { ...JSON.parse(readFileSync(file, 'utf8')).packages };
  delete packages[''];
  return packages;
}

/**
 * npm writes node_modules/.package-lock.json last of all, so it tells a finished install from a broken one. Its
 * content is compared, not its time: git gives every file of a checkout a new time. Optional packages may be
 * absent (they are for other machines).
 */
export function nodeModulesMatch() {
  const installedLock = inRoot('node_modules/.package-lock.json');
  if (!existsSync(installedLock)) return false;
  const installed = lockedPackages(installedLock);
  for (const [where, entry] of Object.entries(lockedPackages(inRoot('package-lock.json')))) {
    const found = installed[where];
    if (
      found === undefined
        ? !entry.optional
        : found.version !== entry.version || found.integrity !== entry.integrity
    ) {
      return false;
    }
  }
  return true;
}

/** Returns undefined, or the message with which setup must end. */
export async function ensureNodeModules(say) {
  if (nodeModulesMatch()) return undefined;
  const folder = inRoot('node_modules');
  if (lstatSync(folder, { throwIfNoEntry: false })?.isSymbolicLink()) {
    return 'node_modules is a link to a shared install that does not match package-lock.json: run `npm ci` where it belongs';
  }
  say('installing the npm packages of package-lock.json (npm ci)');
  const npm = npmCommand();
  // Install scripts are not run: no dependency needs one, and newer npm blocks them anyway.
  const result = await runQuietly(npm.command, [...npm.args, 'ci', '--include=dev', '--ignore-scripts']);
  if (result.status === 0) return undefined;
  if (result.status === 127)
    return "npm is not on the PATH: install it (it comes with nodejs.org's and NodeSource's Node; Debian packs it as `npm`)";
  // After its reason npm prints how to use `npm ci`.
  const [reason] = result.output.split(/^npm error\s*\n?npm error (?:Clean install a project|Usage:)/m);
  return `npm ci failed:\n${lastLines(reason, 40)}`;
}
