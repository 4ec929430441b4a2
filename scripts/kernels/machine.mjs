// Boots a kernel under qemu with this machine's files as its root (read-only for it) and runs one command there.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { RUN_VARIABLE } from '../lib/processes.mjs';
import { writeInitramfs } from './initramfs.mjs';

const QEMU = 'qemu-system-x86_64';
const MEMORY_MIB = 3072;
const CONSOLE_LINES = 15;

function share(tag, folder, readOnly) {
  const options = [`local,path=${folder}`, `mount_tag=${tag}`, 'security_model=none', 'multidevs=remap'];
  if (readOnly) options.push('readonly=on');
  return ['-virtfs', options.join(',')];
}

function qemuArguments(kernel, initramfs, exchange) {
  // Emulated even where there is a /dev/kvm: a nested one may hang without a word, and seconds are enough.
  // biome-ignore format: pairs
  return [
    '-accel', process.env.TRIPLANE_VM_ACCEL ?? 'tcg,thread=multi', '-cpu', 'max',
    '-smp', String(Math.min(4, os.availableParallelism())), '-m', String(MEMORY_MIB),
    '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-nic', 'none',
    '-serial', `file:${path.join(exchange, 'console')}`,
    '-kernel', kernel.image, '-initrd', initramfs,
    '-append', 'console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on mitigations=off rdinit=/init',
    ...share('host', '/', true),
    ...share('exchange', exchange, false),
    ...share('modules', path.join(kernel.modules, 'lib/modules'), true),
  ];
}

/** Resolves when the process has ended, or has been killed at the time bound or by the signal. */
function watch(child, timeoutMs, signal) {
  return new Promise((resolve, reject) => {
    let why = '';
    const kill = (reason) => () => {
      why = reason;
      child.kill('SIGKILL');
    };
    const timer = setTimeout(kill(`it took longer than ${timeoutMs / 1000} s`), timeoutMs);
    const onExit = () => child.kill('SIGKILL');
    const stopped = kill('stopped');
    signal?.addEventListener('abort', stopped, { once: true });
    process.on('exit', onExit);
    const end = () => {
      clearTimeout(timer);
      process.off('exit', onExit);
      signal?.removeEventListener('abort', stopped);
    };
    child.on('error', (error) => {
      end();
      reject(new Error(`${QEMU} does not start: ${error.message}`));
    });
    child.on('close', (status) => {
      end();
      resolve(why || (status === 0 ? '' : `${QEMU} ended with status ${status}`));
    });
  });
}

function readOr(file, otherwise) {
  return existsSync(file) ? readFileSync(file, 'utf8') : otherwise;
}

/**
 * Runs a shell script in a booted kernel. The script finds /triplane-vm, where what it writes comes back as
 * files for which wanted asks.
 * @param {{ name: string, version: string, image: string, modules: string }} kernel of catalog.mjs
 * @param {string} script for /bin/sh, run as root with the host's files around it
 * @param {{ timeoutMs: number, signal?: AbortSignal, wanted?: readonly string[] }} options
 * @returns {Promise<{ status: number, output: string, files: Record<string, string> }>} status -1: the machine
 *   did not come to the script's end, and output says what it said last
 */
export async function runInKernel(kernel, script, options) {
  const exchange = mkdtempSync(path.join(os.tmpdir(), 'triplane-vm-'));
  try {
    const initramfs = path.join(exchange, 'initramfs');
    await writeInitramfs(kernel, initramfs);
    writeFileSync(path.join(exchange, 'command'), script);
    // Whatever becomes of us, the machine ends with us: a signal that no handler sees leaves nothing behind.
    const argv = ['--pdeathsig', 'KILL', QEMU, ...qemuArguments(kernel, initramfs, exchange)];
    // Tests in a booted kernel are patient; what runs beside it may not be.
    const child = spawn('nice', ['-n', '19', 'setpriv', ...argv], {
      stdio: ['ignore', 'ignore', 'pipe'],
      // No part of the run whose left-over processes are looked for (lib/processes.mjs): it ends by itself.
      env: { ...process.env, [RUN_VARIABLE]: '' },
    });
    let complaint = '';
    child.stderr.setEncoding('utf8').on('data', (text) => {
      complaint = (complaint + text).slice(-4096);
    });
    const failure = await watch(child, options.timeoutMs, options.signal);
    const output = readOr(path.join(exchange, 'output'), '');
    const files = Object.fromEntries(
      (options.wanted ?? []).map((name) => [name, readOr(path.join(exchange, name), '')]),
    );
    const status = readOr(path.join(exchange, 'status'), '').trim();
    if (failure === '' && status !== '') return { status: Number(status), output, files };
    const last = readOr(path.join(exchange, 'console'), '').trim().split('\n').slice(-CONSOLE_LINES);
    const why = [failure || 'the kernel ended without a result', complaint.trim(), ...last];
    return { status: -1, output: `${output}\n${why.filter(Boolean).join('\n')}`, files };
  } finally {
    rmSync(exchange, { recursive: true, force: true });
  }
}
