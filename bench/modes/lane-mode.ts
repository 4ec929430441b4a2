/** What a lane's node runs: a mode, another proxy, or nothing but routing. */
import type { KubeProxyMode } from './kube-proxy.ts';

/** 'ebpf-tc': ebpf without its socket programs; 'ebpf-untracked': ebpf on a node without connection tracking. */
export type OwnMode = 'nft' | 'ipvs' | 'ebpf' | 'ebpf-tc' | 'ebpf-untracked';
export type RunMode = OwnMode | KubeProxyMode;
/** 'none': plain routing; 'none-nat': with one NAT rule, which is the least that a translated connection costs in the kernel. */
export type PlainMode = 'none' | 'none-untracked' | 'none-nat';
export type LaneMode = PlainMode | RunMode;

/** No proxy runs there. */
export function isPlain(mode: LaneMode): mode is PlainMode {
  return !isTranslated(mode) || mode === 'none-nat';
}

/** Calls go to a service's addresses there, not to the pod's own. */
export function isTranslated(mode: LaneMode): boolean {
  return mode !== 'none' && mode !== 'none-untracked';
}

/** The node has no connection tracking. Modes that translate by the kernel bring it with them, so they have no such lane. */
export function isUntracked(mode: LaneMode): boolean {
  return mode.endsWith('-untracked');
}

/** What differs from another of these in the way of a packet alone: nothing of it is to be seen in the control path. */
export function isPacketVariant(mode: LaneMode): boolean {
  return mode === 'ebpf-tc' || isUntracked(mode);
}

const PLAIN_TITLES: Readonly<Record<PlainMode, string>> = {
  none: 'plain routing',
  'none-untracked': 'plain, untracked',
  'none-nat': 'one NAT rule',
};

export function titleOf(mode: LaneMode): string {
  return isPlain(mode) ? PLAIN_TITLES[mode] : mode;
}
