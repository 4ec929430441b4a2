/** What this process may do, and errno values in one sentence that says what to do. */
import { readFileSync } from 'node:fs';
import { TriplaneError } from '../model/errors.ts';

/** Bit numbers of linux/capability.h. */
const CAPABILITIES = {
  CAP_NET_ADMIN: 12,
  CAP_NET_RAW: 13,
  CAP_SYS_MODULE: 16,
  CAP_SYS_ADMIN: 21,
  CAP_SYS_RESOURCE: 24,
  CAP_PERFMON: 38,
  CAP_BPF: 39,
} as const;

export type Capability = keyof typeof CAPABILITIES;

export interface Privilege {
  readonly effective: ReadonlySet<Capability>;
  /** False in a user namespace: capabilities then count only for what belongs to it. */
  readonly initialUserNamespace: boolean;
}

/** From the text of /proc/self/status and /proc/self/uid_map (user_namespaces(7)). */
export function parsePrivilege(status: string, uidMap: string): Privilege {
  const hex = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0';
  const bits = BigInt(`0x${hex}`);
  const names = Object.keys(CAPABILITIES) as Capability[];
  const effective = new Set(names.filter((name) => (bits & (1n << BigInt(CAPABILITIES[name]))) !== 0n));
  // The initial user namespace maps all of its ids to themselves.
  const initialUserNamespace = /^\s*0\s+0\s+4294967295\s*$/.test(uidMap);
  return { effective, initialUserNamespace };
}

export function readPrivilege(): Privilege {
  return parsePrivilege(
    readFileSync('/proc/self/status', 'utf8'),
    readFileSync('/proc/self/uid_map', 'utf8'),
  );
}

/** capabilities(7): what was split off CAP_SYS_ADMIN in Linux 5.8 is still had with it. */
const HAD_WITH_SYS_ADMIN: ReadonlySet<Capability> = new Set(['CAP_BPF', 'CAP_PERFMON']);

/** Throws TP_NO_PRIVILEGE when the capability is missing. `purpose`: "change the network of this node". */
export function requireCapability(
  capability: Capability,
  purpose: string,
  privilege: Privilege = readPrivilege(),
): void {
  const { effective } = privilege;
  if (effective.has(capability)) return;
  if (HAD_WITH_SYS_ADMIN.has(capability) && effective.has('CAP_SYS_ADMIN')) return;
  throw new TriplaneError(
    'TP_NO_PRIVILEGE',
    `cannot ${purpose}: ${capability} is missing; run as root or add the capability`,
  );
}

const NOT_ALLOWED = new Set(['EPERM', 'EACCES']);
const NOT_THERE = new Set([
  'ENOENT',
  'EPROTONOSUPPORT',
  'EAFNOSUPPORT',
  'EOPNOTSUPP',
  'ENOSYS',
  'ENOPROTOOPT',
]);

/** What there may be enough of at another time: no word about what this kernel can do. */
const SHORT = new Set(['ENOMEM', 'ENOBUFS', 'EAGAIN', 'EMFILE', 'ENFILE']);

/** The code for a refusal of what a mode cannot do without, by its errno's name; a shortage is tried again. */
export function refusalCode(code: unknown): 'TP_NO_PRIVILEGE' | 'TP_KERNEL_REFUSED' | 'TP_NO_FEATURE' {
  if (typeof code === 'string' && NOT_ALLOWED.has(code)) return 'TP_NO_PRIVILEGE';
  return isShortage(code) ? 'TP_KERNEL_REFUSED' : 'TP_NO_FEATURE';
}

export function isShortage(code: unknown): boolean {
  return typeof code === 'string' && SHORT.has(code);
}

/**
 * The error of a system call as a TriplaneError with one sentence that says what to do. A TriplaneError comes
 * back as it is.
 *
 * @param error an Error with the errno's name as `code`, as Node and the addon throw it
 * @param attempt what was tried: "open nftables", "read conntrack"
 * @param needs for what the kernel lacks: "the kernel module nf_tables"
 */
export function explainErrno(error: unknown, attempt: string, needs: string): TriplaneError {
  if (error instanceof TriplaneError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  const cause = { cause: error };
  if (typeof code === 'string' && NOT_ALLOWED.has(code)) {
    const sentence = `cannot ${attempt} (${code}): run as root or with CAP_NET_ADMIN`;
    return new TriplaneError('TP_NO_PRIVILEGE', sentence, cause);
  }
  if (typeof code === 'string' && NOT_THERE.has(code)) {
    const sentence = `cannot ${attempt} (${code}): ${needs} is missing; triplane probe shows what this kernel can do`;
    return new TriplaneError('TP_NO_FEATURE', sentence, cause);
  }
  const reason = (error instanceof Error ? error.message : String(error)).split('\n')[0];
  return new TriplaneError('TP_KERNEL_REFUSED', `cannot ${attempt}: ${reason}`, cause);
}
