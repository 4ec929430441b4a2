/** One service by hand, as traffic tests want it. */
import type { Backend, DesiredNode, DesiredPort, DesiredService, Frontend } from '../../src/model/desired.ts';
import { ip, net } from '../model/world.ts';

export const NODE: DesiredNode = {
  detector: { by: 'cidr', cidrs: [net('10.10.0.0/16'), net('fd00:10:10::/48')] },
  serviceCIDRs: [net('10.200.1.0/24'), net('fd00:10:200::/112')],
};

/** "10.10.1.1 80" */
export function backend(text: string): Backend {
  const [address = '', port] = text.split(' ');
  return {
    address: ip(address),
    port: Number(port),
    local: address.includes('10.1.') || address.includes(':1::'),
  };
}

function portOf(
  name: string,
  protocol: 'TCP' | 'UDP',
  backends: readonly string[],
  host: number,
  affinitySeconds: number,
): DesiredPort {
  const family = backends[0]?.includes(':') ? 6 : 4;
  const cluster = backends
    .map(backend)
    .sort((a, b) => (a.address === b.address ? a.port - b.port : a.address < b.address ? -1 : 1));
  const answer = cluster.length > 0 ? 'cluster' : 'reject';
  const base = { protocol, inside: answer, outside: answer, sourceRanges: null } as const;
  const [clusterIP, external, nodeAddress] =
    family === 4
      ? [`10.200.1.${host}`, `198.18.1.${host}`, '192.0.2.11']
      : [`fd00:10:200::${host}`, `2001:db8:18:1::${host}`, '2001:db8::11'];
  const frontends: Frontend[] = [
    { ...base, address: ip(clusterIP!), port: 9000, kind: 'ClusterIP', masquerade: 'strangers' },
    { ...base, address: ip(external!), port: 9000, kind: 'ExternalIP', masquerade: 'always' },
    { ...base, address: ip(nodeAddress!), port: 31000 + host, kind: 'NodePort', masquerade: 'always' },
  ];
  return { name, family, protocol, affinitySeconds, cluster, local: [], frontends, settings: {} };
}

/** TCP and UDP on cluster IP 10.200.1.HOST, external IP 198.18.1.HOST (port 9000) and NodePort 31000+HOST. */
export function web(host: number, backends: readonly string[], affinitySeconds = 0): DesiredService {
  const key = `test/web-${host}`;
  return {
    key,
    ports: [
      portOf(`${key}:tcp`, 'TCP', backends, host, affinitySeconds),
      portOf(`${key}:udp`, 'UDP', backends, host, affinitySeconds),
    ],
  };
}
