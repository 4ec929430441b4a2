/**
 * Pins outlive the network namespace that they serve (a container that was removed, a lab whose process was killed),
 * and with them socket programs that go on translating by a state that nobody keeps up to date.
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { isSameCookie, type Meta, netnsCookie } from './meta.ts';
import { bpfNative } from './native.ts';
import { lifeNative } from './native-life.ts';
import { Generation, generations } from './pins.ts';

/** Loopback has index 1 in every network namespace and goes with it, and only then. */
const LOOPBACK_LINK = 'egress_1';
const DEVICE_LINK = /^(?:xdp|ingress|egress)_\d+$/;

/** The device of a pinned link is gone; 'unknown': what is there is no link that we may open. */
function deviceOf(pin: string): 'there' | 'gone' | 'unknown' {
  const link = bpfNative().bpfGet(pin);
  if (link < 0) return 'unknown';
  try {
    return lifeNative().bpfLinkInfo(link).ifindex === 0 ? 'gone' : 'there';
  } finally {
    bpfNative().bpfClose(link);
  }
}

/**
 * Whether the network namespace of what is pinned there is gone: every link has lost its device, and nobody to be seen
 * is in a namespace of that number which may be the same. Links alone do not tell, since somebody may have detached them
 * from a node that lives; the number alone does not, since it is given away again; and nor does a namespace that cannot be
 * seen from here (a process in another PID namespace). Where there is no link at loopback (kernels without tcx) nothing is
 * known, and the answer is no.
 */
export function isOrphaned(root: string, { netns, cookie }: Pick<Meta, 'netns' | 'cookie'>): boolean {
  return areDevicesGone(root) && !namespacesOf(netns).some((path) => isSameCookie(cookie, netnsCookie(path)));
}

function areDevicesGone(root: string): boolean {
  const pins = generations(root).flatMap((number) => {
    const generation = new Generation(root, number);
    return generation.linkNames().map((name) => path.join(generation.links, name));
  });
  const devices = pins.filter((pin) => DEVICE_LINK.test(path.basename(pin)));
  return (
    devices.some((pin) => path.basename(pin) === LOOPBACK_LINK) &&
    devices.every((pin) => existsSync(pin) && deviceOf(pin) === 'gone')
  );
}

/** Ways into the network namespaces with this number that can be seen from here: there is one at most. */
function namespacesOf(identity: string): string[] {
  const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const ways = ['/proc/thread-self/ns/net', ...processes.map((pid) => `/proc/${pid}/ns/net`), ...mounted()];
  const found = ways.find((way) => identityOf(way) === identity);
  return found === undefined ? [] : [found];
}

function identityOf(way: string): string {
  try {
    const { dev, ino } = statSync(way);
    return `${dev}:${ino}`;
  } catch {
    return '';
  }
}

/** Where namespaces are mounted, as `ip netns` does (proc_pid_mountinfo(5)). */
function mounted(): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter((fields) => /^net:\[\d+\]$/.test(fields[3] ?? ''))
    .map((fields) =>
      fields[4]!.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))),
    );
}
