// The kernels that the tests boot, and how their packages are found. Debian's linux-image packages hold
// everything that Triplane can use, as modules; they are unpacked into a cache and never installed.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { runQuietly } from '../lib/run.mjs';

/** Where Debian is to be had when this machine's own sources do not say so. */
const MIRROR = 'http://deb.debian.org/debian';
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/**
 * name: as `npm run test:kernels -- NAME` has it; suite: the Debian suite; image: the metapackage, or null
 * for the newest image in the suite.
 */
export const KERNELS = [
  { name: '5.10', suite: 'bullseye', image: 'linux-image-amd64' },
  { name: '6.1', suite: 'bookworm', image: 'linux-image-amd64' },
  { name: '6.12', suite: 'trixie', image: 'linux-image-amd64' },
  { name: 'newest', suite: 'sid', image: 'linux-image-amd64' },
];

/** The kernel that `npm test` boots. */
export const DEFAULT_KERNEL = '6.1';

function cacheRoot() {
  const base = process.env.XDG_CACHE_HOME || path.join(os.homedir() || os.tmpdir(), '.cache');
  return path.join(base, 'triplane', 'kernels');
}

/** The Debian mirror of this machine's own sources: where only that can be reached, it is the one to ask. */
async function mirror() {
  const { status, output } = await runQuietly('apt-get', ['indextargets', '--format', '$(REPO_URI)']);
  const own = status === 0 ? output.split('\n').find((uri) => /^https?:.*\/debian\/?$/.test(uri)) : undefined;
  return own?.replace(/\/$/, '') ?? MIRROR;
}

/** An apt that sees one suite only and keeps its lists in our folder, so that the machine's apt is not touched. */
async function aptArguments(folder, kernel) {
  const state = path.join(folder, 'apt');
  for (const part of ['lists/partial', 'cache/archives/partial'])
    mkdirSync(path.join(state, part), { recursive: true });
  const sources = path.join(state, 'sources.list');
  const signed = existsSync(KEYRING) ? ` signed-by=${KEYRING}` : '';
  writeFileSync(sources, `deb [arch=amd64${signed}] ${await mirror()} ${kernel.suite} main\n`);
  const options = [
    `Dir::Etc::SourceList=${sources}`,
    'Dir::Etc::SourceParts=-',
    `Dir::State::Lists=${path.join(state, 'lists')}`,
    `Dir::Cache=${path.join(state, 'cache')}`,
    'Acquire::Languages=none',
    'Acquire::Retries=3',
    'Acquire::http::Timeout=20',
    'APT::Sandbox::User=root',
    'APT::Get::AllowUnauthenticated=false',
  ];
  return options.flatMap((option) => ['-o', option]);
}

async function must(command, args, cwd) {
  const { status, output } = await runQuietly(command, args, { cwd });
  if (status !== 0) throw new Error(`${command} ${args.at(-1)}: ${output.trim().split('\n').at(-1)}`);
  return output;
}

/** The packages behind the metapackage: linux-image-6.1.0-56-amd64. */
async function resolveImage(apt, kernel) {
  const output = await must('apt-cache', [...apt, 'depends', kernel.image]);
  const match = /Depends: (linux-image-\S+)/.exec(output);
  if (!match) throw new Error(`${kernel.image} of ${kernel.suite} depends on no image`);
  const [, image] = match;
  // Newer kernels come in parts: linux-binary-VERSION, linux-modules-VERSION, linux-base-VERSION.
  const version = image.slice('linux-image-'.length);
  const parts = (await must('apt-cache', [...apt, 'depends', image])).match(/(?<=Depends: )linux-\S+/g) ?? [];
  return [image, ...parts.filter((part) => part.endsWith(`-${version}`))];
}

/**
 * Downloads and unpacks a kernel, once. Resolves to { name, version, image, modules }: the file to boot and the
 * folder that holds lib/modules/<version>. `say` is told what takes time. Throws an Error of one line when it cannot be had.
 */
export async function ensureKernel(kernel, say) {
  const folder = path.join(cacheRoot(), kernel.name);
  const found = findUnpacked(folder, kernel);
  if (found) return found;
  say(`downloading Debian's package of Linux ${kernel.name}, to boot it`);
  return download(folder, kernel);
}

function findUnpacked(folder, kernel) {
  const ready = path.join(folder, 'ready');
  if (!existsSync(ready)) return undefined;
  const version = readFileSync(ready, 'utf8').trim();
  const root = path.join(folder, 'root');
  const places = [
    path.join(root, 'boot', `vmlinuz-${version}`),
    path.join(root, 'lib/modules', version, 'vmlinuz'),
  ];
  return { name: kernel.name, version, image: places.find((file) => existsSync(file)), modules: root };
}

async function download(folder, kernel) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const apt = await aptArguments(folder, kernel);
  await must('apt-get', ['-q', ...apt, 'update']);
  const names = await resolveImage(apt, kernel);
  await must('apt-get', ['-q', ...apt, 'download', ...names], folder);
  const root = path.join(folder, 'root');
  for (const deb of readdirSync(folder).filter((file) => file.endsWith('.deb'))) {
    await must('dpkg-deb', ['-x', path.join(folder, deb), root]);
    rmSync(path.join(folder, deb));
  }
  rmSync(path.join(folder, 'apt'), { recursive: true, force: true });
  // Newer packages have /usr/lib/modules, older ones /lib/modules.
  const merged = path.join(root, 'usr/lib/modules');
  if (existsSync(merged)) await must('ln', ['-sfn', 'usr/lib', path.join(root, 'lib')]);
  const version = readdirSync(path.join(root, 'lib/modules'))[0];
  await must('depmod', ['-b', root, version]);
  writeFileSync(path.join(folder, 'ready'), `${version}\n`);
  return findUnpacked(folder, kernel);
}
