/**
 * Without root, a lab is built inside a user namespace of its own (user_namespaces(7)): this process starts
 * itself again in there, as its root.
 */
import { spawn, spawnSync } from 'node:child_process';
import { TriplaneError } from '../model/errors.ts';

const INSIDE = 'TRIPLANE_USER_NAMESPACE';

/** What a person should know of labs in there, in one line. */
export const UNPRIVILEGED_NOTICE =
  'Not root: this runs in a user namespace, where nft works; ebpf mode (BPF), cgroups, some sysctls and labs ' +
  'that outlive the command are not to be had.';

const NAMESPACES = ['--user', '--map-root-user', '--net', '--mount', '--fork', '--kill-child'];
/** Best first. Where /proc is partly hidden (containers), the kernel forbids mounting a new one. */
const VARIANTS = [[...NAMESPACES, '--pid', '--mount-proc'], NAMESPACES];
/** A Ctrl-C that comes before the inner process listens for it is lost on it. */
const INTERRUPT_MS_MAX = 5000;

/** True in the process that reexecUnprivileged() started. */
export function isInsideUserNamespace(): boolean {
  return process.env[INSIDE] === '1';
}

/** `ip netns` and the state files need a /run that is ours. */
function ownRun(): void {
  const mounted = spawnSync('mount', ['-t', 'tmpfs', 'tmpfs', '/run'], { encoding: 'utf8' });
  if (mounted.status !== 0)
    throw new TriplaneError('TP_NO_PRIVILEGE', `cannot mount /run: ${mounted.stderr.trim()}`);
}

function possibleVariant(): readonly string[] | undefined {
  return VARIANTS.find(
    (variant) => spawnSync('unshare', [...variant, '--', 'true'], { stdio: 'ignore' }).status === 0,
  );
}

/**
 * For root, or inside already: makes ready and returns null, and the caller goes on. For others: runs this
 * very command inside a user namespace to its end and returns its exit status, and the caller ends with it.
 * Throws TP_NO_PRIVILEGE where the machine allows no user namespaces.
 */
export async function reexecUnprivileged(): Promise<number | null> {
  if (isInsideUserNamespace()) {
    ownRun();
    return null;
  }
  if (process.getuid?.() === 0) return null;
  const variant = possibleVariant();
  if (!variant) {
    throw new TriplaneError(
      'TP_NO_PRIVILEGE',
      'not root, and this machine allows no user namespaces (unshare --user)',
    );
  }
  process.stderr.write(`${UNPRIVILEGED_NOTICE}\n`);
  const command = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const child = spawn('unshare', [...variant, '--', ...command], {
    stdio: 'inherit',
    env: { ...process.env, [INSIDE]: '1' },
  });
  // The terminal's Ctrl-C reaches the inner process by itself; a signal sent to this one alone is handed on.
  process.on('SIGINT', () => void setTimeout(() => child.kill('SIGKILL'), INTERRUPT_MS_MAX).unref());
  process.on('SIGTERM', () => child.kill('SIGKILL'));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (status, signal) => resolve(status ?? (signal === 'SIGINT' ? 130 : 143)));
  });
}
