/**
 * Pins outlive the network namespace that they serve (a container that was removed, a lab whose process was killed),
 * and with them socket programs that go on translating by a state that nobody keeps up to date.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
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
 * Whether the network namespace of what is pinned there is gone. The number of a namespace says nothing, since numbers
 * are given away again: its devices do. Where there is no link at loopback (kernels without tcx) nothing is known, and
 * the answer is no.
 */
export function isOrphaned(root: string): boolean {
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
