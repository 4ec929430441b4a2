// How the tests get a network of their own to work in.
import { spawnSync } from 'node:child_process';
import process from 'node:process';

// A network needs its loopback up, and /run a place for `ip netns` that belongs to us.
const PREPARE = 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"';
const NAMESPACES = ['--user', '--map-root-user', '--net', '--mount', '--fork', '--kill-child'];
/** Best first. Where /proc is partly hidden (containers), the kernel forbids mounting a new one. */
const VARIANTS = [[...NAMESPACES, '--pid', '--mount-proc'], NAMESPACES];

/**
 * The words to put before a command so that it may change networks: none for root; unshare(1) into a user
 * namespace for others; `undefined` where this machine allows neither.
 */
export function privilegedPrefix() {
  if (process.getuid() === 0) return [];
  for (const variant of VARIANTS) {
    const prefix = ['unshare', ...variant, '--', 'sh', '-c', PREPARE, 'sh'];
    if (spawnSync(prefix[0], [...prefix.slice(1), 'true']).status === 0) return prefix;
  }
  return undefined;
}

export function privilegeNotice(prefix) {
  if (prefix === undefined) {
    return (
      'Not root, and unprivileged user namespaces are forbidden here (kernel.unprivileged_userns_clone, ' +
      'kernel.apparmor_restrict_unprivileged_userns or a container): whatever touches the network is skipped.'
    );
  }
  if (prefix.length === 0) return undefined;
  return (
    'Not root: tests run as root of a user namespace, which is enough for nftables and network namespaces. ' +
    'What needs root of the machine is skipped and listed at the end.'
  );
}
