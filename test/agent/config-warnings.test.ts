import { expect, test } from 'vitest';
import { configWarnings } from '../../src/agent/config-warnings.ts';
import { resolveConfig } from '../../src/config/config.ts';
import { parseAddress, parseCidr } from '../../src/model/address.ts';
import type { NodeRecord } from '../../src/model/records.ts';

const machine = { all: [], defaults: { 4: null, 6: null } };
const node = (addresses: readonly string[], podCIDRs: readonly string[] = []): NodeRecord => ({
  ...{ kind: 'Node', name: 'n1', uid: '', zone: '', deleting: false, taints: [], settings: {} },
  addresses: addresses.map((text) => parseAddress(text)!),
  podCIDRs: podCIDRs.map((text) => parseCidr(text)!),
});
const FOUR = node(['192.0.2.1', '2001:db8::1'], ['10.1.0.0/24']);
const SIX = node(['2001:db8::1']);

test.each([
  { flags: { 'cluster-cidr': '10.0.0.0/8' }, of: FOUR, says: [] },
  { flags: {}, of: FOUR, says: [/clusterCIDR has no IPv4 range.*no traffic to ClusterIPs is masqueraded/] },
  { flags: { 'cluster-cidr': 'fd00::/64' }, of: FOUR, says: [/clusterCIDR has no IPv4 range/] },
  { flags: { 'cluster-cidr': '10.0.0.0/8' }, of: SIX, says: [/clusterCIDR has no IPv6 range/] },
  { flags: { 'cluster-cidr': '10.0.0.0/8,fd00::/64' }, of: SIX, says: [/no IPv4 range/] },
  { flags: { 'detect-local-mode': 'NodeCIDR' }, of: FOUR, says: [] },
  { flags: { 'detect-local-mode': 'NodeCIDR' }, of: SIX, says: [/the Node has no IPv6 pod CIDR/] },
  {
    flags: { 'cluster-cidr': '10.0.0.0/8', 'nodeport-addresses': '2001:db8::/32' },
    ...{ of: FOUR, says: [/--nodeport-addresses has no IPv4 range/] },
  },
  {
    flags: { 'cluster-cidr': '10.0.0.0/8,fd00::/64', 'nodeport-addresses': '192.0.2.0/24' },
    ...{ of: FOUR, says: [/--nodeport-addresses has no IPv6 range/] },
  },
  {
    flags: { 'detect-local-mode': 'InterfaceNamePrefix', 'pod-interface-name-prefix': 'veth' },
    ...{ of: FOUR, says: [] },
  },
])('$flags: $says', ({ flags, of, says }) => {
  const texts = new Map(Object.entries(flags).map(([flag, text]) => [flag, [text as string]]));
  const lines = configWarnings(resolveConfig(texts, null).config, of, machine);
  expect(lines.length).toBe(says.length);
  for (const [at, pattern] of says.entries()) expect(lines[at]).toMatch(pattern);
});
