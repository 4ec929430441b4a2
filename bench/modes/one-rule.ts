/** The least that a kernel asks for translating a connection: one fixed rule for each way, and no proxy. */
import type { Family } from '../../src/model/records.ts';
import { balancerIp, clusterIp, ECHO_PORT, nodePort, SERVICE_PORTS, SWALLOW_PORT } from './cluster.ts';

export interface OneRule {
  readonly family: Family;
  /** Of the pod that answers. */
  readonly backend: string;
  readonly nodeAddress: string;
  /** Range of the clients that are not in the cluster, who are masqueraded. */
  readonly outside: string;
}

/** An nftables table: service 0 of the called ones, with one backend. */
export function oneRuleTable({ family, backend, nodeAddress, outside }: OneRule): string {
  const ip = family === 4 ? 'ip' : 'ip6';
  const to = (port: number) => `dnat to ${family === 4 ? backend : `[${backend}]`}:${port}`;
  const rule = (address: string, port: number, target: number) =>
    `${ip} daddr ${address} meta l4proto { tcp, udp } th dport ${port} ${to(target)}`;
  return `table ${ip} bench-nat {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    ${rule(clusterIp(family, 0), SERVICE_PORTS.echo, ECHO_PORT)}
    ${rule(nodeAddress, nodePort(0), ECHO_PORT)}
    ${rule(balancerIp(family, 0), SERVICE_PORTS.echo, ECHO_PORT)}
    ${rule(clusterIp(family, 0), SERVICE_PORTS.swallow, SWALLOW_PORT)}
    ${rule(balancerIp(family, 0), SERVICE_PORTS.swallow, SWALLOW_PORT)}
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ${ip} saddr ${outside} ct status dnat masquerade
  }
}
`;
}
