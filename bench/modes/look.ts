/** How each kind of lane is drawn: the same in every plot. */
import { isPlain, type LaneMode } from './lane-mode.ts';
import type { Look } from './plot.ts';

/** Told apart without seeing red and green, too (Okabe and Ito); without any colour by their dashes. */
const LOOKS: Readonly<Record<Exclude<LaneMode, 'none' | 'none-untracked' | 'none-nat'>, Look>> = {
  nft: { colour: '#0072b2', dash: '' },
  ipvs: { colour: '#56b4e9', dash: '9 3' },
  ebpf: { colour: '#d55e00', dash: '' },
  'ebpf-tc': { colour: '#e69f00', dash: '9 3' },
  'ebpf-untracked': { colour: '#cc79a7', dash: '3 3' },
  'kube-proxy-nftables': { colour: '#009e73', dash: '' },
  'kube-proxy-iptables': { colour: '#000000', dash: '9 3' },
};
const PLAIN_DASHES = { none: '', 'none-untracked': '3 3', 'none-nat': '9 3' } as const;

export function lookOf(mode: LaneMode): Look {
  return isPlain(mode) ? { colour: '#7d8a96', dash: PLAIN_DASHES[mode] } : LOOKS[mode];
}
