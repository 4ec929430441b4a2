/**
 * TRIPLANE_WITHOUT=tcx,socket,...: single features that are not used although this kernel has them. For tests, and
 * for seeing what a node does that lacks them: the probe answers no, and the dataplanes do without.
 */
import { TriplaneError } from '../model/errors.ts';

export const FEATURES = {
  nft: 'nftables',
  numgen: 'random numbers in nftables rules (nft_numgen)',
  ipvs: 'IPVS',
  dummy: 'dummy devices',
  bpf: 'BPF programs',
  tcx: 'links of programs at tc (tcx)',
  xdp: 'XDP programs',
  socket: 'programs at sockets (cgroup hooks)',
  'ct-lookup': 'asking connection tracking from programs',
  'redirect-neigh': 'the helper bpf_redirect_neigh()',
  'netns-cookie': 'the helper bpf_get_netns_cookie() at sockets',
  'set-retval': 'the helper bpf_set_retval()',
} as const;

export type Feature = keyof typeof FEATURES;

export const SWITCH = 'TRIPLANE_WITHOUT';

/** In the order of the table. Throws TP_BAD_FLAG naming what is no feature. */
export function parseSwitches(text: string): Feature[] {
  const named = new Set(
    text
      .split(',')
      .map((one) => one.trim())
      .filter((one) => one !== ''),
  );
  const known = Object.keys(FEATURES) as Feature[];
  const off = known.filter((feature) => named.delete(feature));
  if (named.size === 0) return off;
  const unknown = [...named].join(', ');
  throw new TriplaneError(
    'TP_BAD_FLAG',
    `${SWITCH}: no feature is called ${unknown}; there are ${known.join(', ')}`,
  );
}

/** What is switched off in this process. */
export function switchedOff(): Feature[] {
  return parseSwitches(process.env[SWITCH] ?? '');
}

export function isSwitchedOff(feature: Feature): boolean {
  return switchedOff().includes(feature);
}

/** Throws TP_NO_FEATURE for the first of these that is switched off. */
export function requireFeatures(features: readonly Feature[]): void {
  const off = features.find(isSwitchedOff);
  if (off) throw new TriplaneError('TP_NO_FEATURE', `${FEATURES[off]} is switched off (${SWITCH}=${off})`);
}
