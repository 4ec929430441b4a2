/** What a lane's node runs: a mode, another proxy, or nothing but routing. */
import type { KubeProxyMode } from './kube-proxy.ts';

/** 'ebpf-tc': ebpf without its socket programs; 'ebpf-untracked': ebpf on a node without connection tracking. */
export type OwnMode = 'nft' | 'ipvs' | 'ebpf' | 'ebpf-tc' | 'ebpf-untracked';
export type RunMode = OwnMode | KubeProxyMode;
/** 'none': plain routing. */
export type PlainMode = 'none' | 'none-untracked';
export type LaneMode = PlainMode | RunMode;

/** No proxy runs there. */
export function isPlain(mode: LaneMode): mode is PlainMode {
  return mode === 'none' || mode === 'none-untracked';
}

/** The node has no connection tracking. Modes that translate by the kernel bring it with them, so they have no such lane. */
export function isUntracked(mode: LaneMode): boolean {
  return mode.endsWith('-untracked');
}

/** What differs from another of these in the way of a packet alone: nothing of it is to be seen in the control path. */
export function isPacketVariant(mode: LaneMode): boolean {
  return mode === 'ebpf-tc' || isUntracked(mode);
}

export function titleOf(mode: LaneMode): string {
  if (mode === 'none') return 'plain routing';
  return mode === 'none-untracked' ? 'plain, untracked' : mode;
}
