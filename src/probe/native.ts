/** The addon's functions for probing (native/probe.cc), typed. Each throws the kernel's errno as `code`. */
import { loadNative } from '../node/native.ts';

export interface ProbeNative {
  /** The number of a generic netlink family. ENOENT: there is none of this name. */
  genlFamily(netns: string, name: string): number;
  /** NETDEV_XDP_ACT_* of linux/netdev.h; 1: the driver takes XDP programs. ENOENT: this kernel does not tell. */
  xdpFeatures(netns: string, ifindex: number): number;
  /** Makes a map and lets go of it. */
  bpfTryMap(type: number, keyBytes: number, valueBytes: number, entries: number, flags: number): void;
  /** A program that lets everything pass; the caller closes the descriptor. `attachType` 0: none is expected. */
  bpfTryProgram(type: number, attachType: number): number;
}

export function probeNative(): ProbeNative {
  return loadNative() as unknown as ProbeNative;
}
