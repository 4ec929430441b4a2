import { readFileSync } from 'node:fs';
import process from 'node:process';

/**
 * What this process may do to the network:
 * - 'root': root of the machine (or of a container that was given everything);
 * - 'namespace': root of a user namespace: its own network namespaces, nftables and devices, but no other
 *   user's files, no BPF, no sysctl of the machine. `npm test` without root runs the tests so;
 * - 'none': nothing, as where unprivileged user namespaces are forbidden.
 */
export type Privilege = 'root' | 'namespace' | 'none';

export function privilege(): Privilege {
  if (process.getuid?.() !== 0) return 'none';
  // user_namespaces(7): the initial namespace maps all ids onto themselves.
  const [inside, outside, count] = readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\s+/).map(Number);
  return inside === 0 && outside === 0 && count === 4294967295 ? 'root' : 'namespace';
}

/** Whether network namespaces can be made and their nftables changed. */
export function mayChangeNetworks(): boolean {
  return privilege() !== 'none';
}
