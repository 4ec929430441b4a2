// The system packages that Triplane uses, and how they get here.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { inRoot } from './files.mjs';
import { findNodeHeaders, nodeIsTheDistributions } from './node-headers.mjs';
import { runQuietly } from './run.mjs';

const LOCK_WAIT_MS_MAX = 180_000;
const LOCK_RETRY_MS = 3_000;

/**
 * One row a package. `use`:
 *   build  the native addon cannot be compiled without it (not needed once the addon is built);
 *   run    Triplane cannot run without it;
 *   look   lab, tests and people look at the kernel with it; Triplane itself never calls it;
 *   boot   tests boot other kernels with it (scripts/kernels/); only they install it.
 * `when` leaves a row out where it is of no use.
 */
const onX64 = () => process.arch === 'x64';
const hasBpf = () => existsSync(inRoot('bpf'));
const lacksHeaders = () => nodeIsTheDistributions() && findNodeHeaders() === undefined;
export const PACKAGES = [
  { name: 'g++', use: 'build', why: 'compiles the native addon' },
  { name: 'make', use: 'build', why: 'node-gyp writes makefiles' },
  { name: 'python3', use: 'build', why: 'node-gyp is written in Python' },
  { name: 'libnode-dev', use: 'build', why: "headers of the distribution's Node", when: lacksHeaders },
  { name: 'libmnl-dev', use: 'build', why: 'netlink messages in the addon' },
  { name: 'libnftnl-dev', use: 'build', why: 'nftables objects as netlink messages' },
  { name: 'clang', use: 'build', why: 'compiles the programs in bpf/', when: hasBpf },
  {
    name: 'libbpf-dev',
    use: 'build',
    why: 'loads them, and their helpers; brings libelf and zlib',
    when: hasBpf,
  },
  { name: 'libnftables1', use: 'run', why: 'applies the readable nft skeleton' },
  { name: 'nftables', use: 'look', why: 'nft: tests assert that it can list our table' },
  { name: 'iproute2', use: 'look', why: 'ip and tc: namespaces and devices in tests' },
  { name: 'procps', use: 'look', why: 'ps and sysctl' },
  { name: 'conntrack', use: 'look', why: 'tests make flows with it' },
  { name: 'iptables', use: 'look', why: "tests make what kube-proxy's iptables mode leaves" },
  { name: 'ipset', use: 'boot', why: "tests make what kube-proxy's ipvs mode leaves", when: onX64 },
  { name: 'ipvsadm', use: 'boot', why: 'that, too', when: onX64 },
  { name: 'qemu-system-x86', use: 'boot', why: 'the machine', when: onX64 },
  { name: 'busybox-static', use: 'boot', why: 'its first root', when: onX64 },
  { name: 'cpio', use: 'boot', why: 'packs that root', when: onX64 },
  { name: 'kmod', use: 'boot', why: "finds a kernel's modules", when: onX64 },
  { name: 'xz-utils', use: 'boot', why: 'unpacks modules', when: onX64 },
  { name: 'debian-archive-keyring', use: 'boot', why: "checks Debian's kernel packages", when: onX64 },
];

/** What setup sees to; what boots kernels comes by ensureBootPackages(). */
const USES = ['build', 'run', 'look'];

/** What to tell people whose machine has no apt. */
const ELSEWHERE =
  'a C++17 compiler, make, python3, the development files of libmnl and libnftnl, libnftables, nft and ip';

// biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own placeholders
const DPKG_FORMAT = '${Package} ${db:Status-Status}\n';

export function isRoot() {
  return process.getuid() === 0;
}

/** The rows of the named uses that are not installed, or undefined on a machine without dpkg. */
function missingRows(uses) {
  const rows = PACKAGES.filter((row) => uses.includes(row.use) && (row.when?.() ?? true));
  if (rows.length === 0) return [];
  const query = spawnSync('dpkg-query', ['-W', '-f', DPKG_FORMAT, ...rows.map((row) => row.name)], {
    encoding: 'utf8',
  });
  if (query.error) return undefined;
  const installed = new Set();
  for (const line of query.stdout.split('\n')) {
    const [name, status] = line.split(' ');
    if (status === 'installed') installed.add(name);
  }
  return rows.filter((row) => !installed.has(row.name));
}

async function apt(args) {
  const deadline = Date.now() + LOCK_WAIT_MS_MAX;
  for (let attempt = 0; ; attempt += 1) {
    const result = await runQuietly(
      'apt-get',
      ['-q', '-o', 'DPkg::Lock::Timeout=60', '-o', 'Acquire::Retries=3', ...args],
      { env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', NEEDRESTART_MODE: 'l', LC_ALL: 'C' } },
    );
    const locked = result.status !== 0 && /could not get lock|is held by process/i.test(result.output);
    if (!locked || Date.now() > deadline) return result;
    // Somebody else (unattended-upgrades on a machine that has just booted) is at it.
    if (attempt === 0) process.stdout.write('setup: waiting for another apt or dpkg to end\n');
    await sleep(LOCK_RETRY_MS);
  }
}

async function install(names) {
  // Lists may be absent (a fresh container) or old (404s). One broken third-party list must not stop us, so
  // only the installation's own result counts.
  const update = await apt(['update']);
  const result = await apt(['install', '-y', '--no-install-recommends', ...names]);
  if (result.status !== 0) result.output = `${update.status === 0 ? '' : update.output}\n${result.output}`;
  return result;
}

function explain(rows) {
  const width = Math.max(...rows.map((row) => row.name.length));
  return rows.map((row) => `  ${row.name.padEnd(width)}  ${row.why}`).join('\n');
}

/**
 * Sees to the packages. `needsBuild`: the native addon is going to be compiled. Returns undefined, or the
 * message with which setup must end; what is merely useful is reported through `say` and does not end it.
 */
export async function ensurePackages(needsBuild, say) {
  const missing = missingRows(USES);
  if (missing === undefined) {
    if (needsBuild) say(`no dpkg here, so packages are not checked; needed are ${ELSEWHERE}`);
    return undefined;
  }
  const wanted = needsBuild ? missing : missing.filter((row) => row.use !== 'build');
  if (wanted.length === 0) return undefined;
  const essential = wanted.filter((row) => row.use !== 'look');
  const names = wanted.map((row) => row.name);
  const command = `apt-get update && apt-get install -y --no-install-recommends ${names.join(' ')}`;
  if (!isRoot()) {
    const text = `system packages are missing, and only root may install them:\n${explain(wanted)}\nrun as root: ${command}`;
    if (essential.length > 0) return text;
    say(`${text}\nsetup goes on without: none of them is needed to build or to run`);
    return undefined;
  }
  say(`installing ${names.length} system packages through apt: ${names.join(' ')}`);
  const result = await install(names);
  if (result.status === 0) return undefined;
  const stillMissing = missingRows(USES).filter((row) => essential.includes(row));
  const text = `apt could not install them:\n${result.output.trim()}\n`;
  if (stillMissing.length > 0) return `${text}needed are:\n${explain(stillMissing)}`;
  say(`${text}setup goes on without: none of them is needed to build or to run`);
  return undefined;
}

/**
 * Sees to what boots other kernels. Resolves to '' or to why it cannot be had, in one line: that is no reason to
 * end anything else.
 */
export async function ensureBootPackages(say) {
  if (!onX64()) return 'needs an x86-64 machine: the kernels that are booted are built for it';
  const missing = missingRows(['boot']);
  if (missing === undefined) return '';
  const names = missing.map((row) => row.name);
  if (names.length === 0) return '';
  if (!isRoot()) return `needs packages that only root may install: ${names.join(' ')}`;
  say(`installing ${names.length} system packages through apt, to boot another kernel: ${names.join(' ')}`);
  const { status, output } = await install(names);
  return status === 0 ? '' : `apt could not install ${names.join(' ')}: ${lastLine(output)}`;
}

function lastLine(text) {
  return text.trim().split('\n').at(-1);
}
