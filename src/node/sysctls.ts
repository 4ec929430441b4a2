/**
 * The kernel settings that kube-proxy makes (pkg/proxy/conntrack/sysctls.go), and those it only needs.
 *
 * A value that cannot be set (read-only /proc or /sys, as in an unprivileged container) is a warning: the
 * proxy works without. Never set: net.ipv4.conf.*.route_localnet, which lets neighbours reach services of
 * the node that listen on loopback only (CVE-2020-8558); NodePorts on localhost are not offered instead.
 *
 * All access is synchronous on purpose: /proc/sys/net shows the network namespace of the *thread* that opens
 * the file, and the pool threads of asynchronous access may be in another one.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

/** Zero or false: leave it as it is. */
export interface ConntrackSettings {
  readonly maxPerCore: number;
  /** Flows to track at least; counts only when maxPerCore is not 0. */
  readonly min: number;
  readonly tcpEstablishedMs: number;
  readonly tcpCloseWaitMs: number;
  readonly tcpBeLiberal: boolean;
  readonly udpMs: number;
  readonly udpStreamMs: number;
}

export interface SysctlRoots {
  /** Normally "/proc/sys". */
  readonly proc: string;
  /** Normally "/sys". */
  readonly sys: string;
}

export interface SysctlReport {
  /** "net.netfilter.nf_conntrack_max: 65536 -> 131072". */
  readonly changed: readonly string[];
  /** One line each; the file and the reason. */
  readonly warnings: readonly string[];
}

export const KERNEL_ROOTS: SysctlRoots = { proc: '/proc/sys', sys: '/sys' };

/** However many cores: more costs memory without use. The same limit as kube-proxy's. */
const CONNTRACK_MAX_LIMIT = 1 << 20;
/** Entries for each bucket of the hash table, at most. */
const ENTRIES_PER_BUCKET = 4;

/** What nf_conntrack_max is to be, or 0: leave it. */
export function conntrackMax(settings: Pick<ConntrackSettings, 'maxPerCore' | 'min'>, cores: number): number {
  if (settings.maxPerCore <= 0) return 0;
  const scaled = settings.maxPerCore * cores;
  if (scaled > CONNTRACK_MAX_LIMIT) return CONNTRACK_MAX_LIMIT;
  return Math.max(scaled, settings.min);
}

class Writer {
  readonly changed: string[] = [];
  readonly warnings: string[] = [];

  /** @returns null when it cannot be read */
  read(file: string): number | null {
    try {
      const value = Number.parseInt(readFileSync(file, 'utf8').trim(), 10);
      return Number.isNaN(value) ? null : value;
    } catch {
      return null;
    }
  }

  set(file: string, name: string, value: number): void {
    const before = this.read(file);
    if (before === value) return;
    try {
      writeFileSync(file, String(value));
      this.changed.push(`${name}: ${before ?? 'unreadable'} -> ${value}`);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? 'error';
      const why = code === 'EROFS' ? 'it is mounted read-only (EROFS)' : code;
      this.warnings.push(
        `${name} stays ${before ?? 'unknown'}, wanted ${value}: cannot write ${file}: ${why}`,
      );
    }
  }
}

function conntrackValues(settings: ConntrackSettings): [string, number][] {
  const seconds = (ms: number) => Math.floor(ms / 1000);
  return [
    ['tcp_timeout_established', seconds(settings.tcpEstablishedMs)],
    ['tcp_timeout_close_wait', seconds(settings.tcpCloseWaitMs)],
    ['tcp_be_liberal', settings.tcpBeLiberal ? 1 : 0],
    ['udp_timeout', seconds(settings.udpMs)],
    ['udp_timeout_stream', seconds(settings.udpStreamMs)],
  ];
}

/**
 * Sets what differs, and nothing else: call it again with a changed configuration. What a setting was before
 * it was first set is not brought back when it becomes 0 (nor does kube-proxy).
 */
export function applyConntrackSettings(
  settings: ConntrackSettings,
  roots: SysctlRoots = KERNEL_ROOTS,
  cores: number = os.cpus().length,
): SysctlReport {
  const writer = new Writer();
  const max = conntrackMax(settings, Math.max(cores, 1));
  if (max > 0) {
    writer.set(
      path.join(roots.proc, 'net/netfilter/nf_conntrack_max'),
      'net.netfilter.nf_conntrack_max',
      max,
    );
    const file = path.join(roots.sys, 'module/nf_conntrack/parameters/hashsize');
    const buckets = Math.floor(max / ENTRIES_PER_BUCKET);
    // Never smaller: the table is shared by all network namespaces.
    if ((writer.read(file) ?? 0) < buckets) writer.set(file, 'nf_conntrack hashsize', buckets);
  }
  for (const [name, value] of conntrackValues(settings)) {
    if (value <= 0) continue;
    writer.set(
      path.join(roots.proc, `net/netfilter/nf_conntrack_${name}`),
      `net.netfilter.nf_conntrack_${name}`,
      value,
    );
  }
  return writer;
}

/** What stands in the way of forwarding to pods, one line each. Reads only: forwarding is the CNI's to switch on. */
export function forwardingWarnings(
  families: readonly (4 | 6)[],
  roots: SysctlRoots = KERNEL_ROOTS,
): string[] {
  const switches = { 4: 'net/ipv4/ip_forward', 6: 'net/ipv6/conf/all/forwarding' } as const;
  const reader = new Writer();
  return families
    .filter((family) => reader.read(path.join(roots.proc, switches[family])) === 0)
    .map(
      (family) =>
        `${switches[family].replaceAll('/', '.')} is 0: traffic of pods and NodePorts to other nodes' pods over IPv${family} is not forwarded`,
    );
}
