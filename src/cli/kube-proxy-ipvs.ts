/**
 * What `ipvsadm -L -n` and `ipset save` print, and which of it is kube-proxy's (pkg/proxy/ipvs): virtual servers carry no
 * owner, but its device has the addresses of all of its services, and its sets have its node ports.
 */

const SET_NAMES = [
  ...['LOOP-BACK', 'CLUSTER-IP', 'EXTERNAL-IP', 'EXTERNAL-IP-LOCAL', 'LOAD-BALANCER', 'LOAD-BALANCER-LOCAL'],
  ...['LOAD-BALANCER-FW', 'LOAD-BALANCER-SOURCE-IP', 'LOAD-BALANCER-SOURCE-CIDR', 'HEALTH-CHECK-NODE-PORT'],
  ...['NODE-PORT-TCP', 'NODE-PORT-LOCAL-TCP', 'NODE-PORT-UDP', 'NODE-PORT-LOCAL-UDP', 'IPVS-IPS'],
  ...['NODE-PORT-SCTP-HASH', 'NODE-PORT-LOCAL-SCTP-HASH'],
  // Of versions before 1.28.
  ...['NODE-PORT-SCTP', 'NODE-PORT-LOCAL-SCTP'],
];
/** ip_set.h: IPSET_MAXNAMELEN less its end. Names of IPv6 sets may have been cut to it. */
const SET_NAME_MAX = 31;
const OWN_SETS: ReadonlySet<string> = new Set(
  SET_NAMES.flatMap((name) => [`KUBE-${name}`, `KUBE-6-${name}`.slice(0, SET_NAME_MAX)]),
);

export interface IpvsDestination {
  /** As ipvsadm takes it: address and port. */
  readonly name: string;
  readonly weight: number;
  /** TCP ones that are open, and all others that IPVS still knows. */
  readonly connections: number;
}

export interface IpvsServer {
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  readonly address: string;
  readonly port: number;
  /** As ipvsadm takes it. */
  readonly name: string;
  readonly destinations: readonly IpvsDestination[];
}

/** Of `ipset save`: names of kube-proxy's sets, and its node ports as "tcp 30080". */
export interface OwnSets {
  readonly names: readonly string[];
  readonly nodePorts: ReadonlySet<string>;
}

export function setsIn(saved: string): OwnSets {
  const names: string[] = [];
  const nodePorts = new Set<string>();
  for (const line of saved.split('\n')) {
    const [verb, name = '', entry = ''] = line.split(' ');
    if (!OWN_SETS.has(name)) continue;
    if (verb === 'create') names.push(name);
    const [, protocol] = /-NODE-PORT-(TCP|UDP|SCTP)(-HASH)?$/.exec(name) ?? [];
    if (verb !== 'add' || protocol === undefined) continue;
    // A bitmap has the port, a hash "192.0.2.1,sctp:30080".
    const port = /(\d+)$/.exec(entry)?.[1];
    if (port !== undefined) nodePorts.add(`${protocol.toLowerCase()} ${port}`);
  }
  return { names, nodePorts };
}

/** Of `ipvsadm -L -n`: servers by address, not those by packet mark, which kube-proxy does not make. */
export function serversIn(listed: string): IpvsServer[] {
  const servers: (IpvsServer & { destinations: IpvsDestination[] })[] = [];
  let isByAddress = false;
  for (const line of listed.split('\n')) {
    const [, protocol, name] = /^(TCP|UDP|SCTP)\s+(\S+)/.exec(line) ?? [];
    if (protocol !== undefined) {
      const [, address = '', port = ''] = /^\[?([^\]]+?)\]?:(\d+)$/.exec(name!) ?? [];
      servers.push({
        ...{ protocol: protocol.toLowerCase() as IpvsServer['protocol'], name: name!, destinations: [] },
        ...{ address, port: Number(port) },
      });
      isByAddress = true;
      continue;
    }
    const destination = /^\s+->\s+(\S+)\s+\S+\s+(\d+)\s+(\d+)\s+(\d+)/.exec(line);
    if (destination === null) {
      isByAddress = false;
    } else if (isByAddress) {
      const [, to, weight, active, inactive] = destination;
      const connections = Number(active) + Number(inactive);
      servers.at(-1)!.destinations.push({ name: to!, weight: Number(weight), connections });
    }
  }
  return servers;
}

export const connectionsOf = ({ destinations }: IpvsServer): number =>
  destinations.reduce((sum, { connections }) => sum + connections, 0);
