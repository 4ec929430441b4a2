import { describe, expect, it } from 'vitest';
import { connectionsOf, serversIn, setsIn } from '../../src/cli/kube-proxy-ipvs.ts';

const LISTED = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.96.0.10:9000 rr
  -> 10.10.1.5:80                 Masq    1      3          1
  -> 10.10.2.5:80                 Masq    0      1          0
TCP  10.96.0.13:9000 rr persistent 600
UDP  [fd00:96::10]:53 rr
  -> [fd00:10::5]:53              Masq    1      0          2
FWM  378 rr
  -> 10.10.1.5:80                 Masq    1      9          9
SCTP 192.0.2.11:30900 rr
  -> 10.10.1.5:80                 Masq    1      0          0
`;

describe('what ipvsadm lists', () => {
  it('is servers by address with their destinations; those by mark are nobody here', () => {
    const servers = serversIn(LISTED);
    expect(servers.map(({ protocol, address, port, name }) => [protocol, address, port, name])).toEqual([
      ['tcp', '10.96.0.10', 9000, '10.96.0.10:9000'],
      ['tcp', '10.96.0.13', 9000, '10.96.0.13:9000'],
      ['udp', 'fd00:96::10', 53, '[fd00:96::10]:53'],
      ['sctp', '192.0.2.11', 30900, '192.0.2.11:30900'],
    ]);
    expect(servers.map(connectionsOf)).toEqual([5, 0, 2, 0]);
    expect(servers[0]!.destinations).toEqual([
      { name: '10.10.1.5:80', weight: 1, connections: 4 },
      { name: '10.10.2.5:80', weight: 0, connections: 1 },
    ]);
  });

  it('may be nothing', () => {
    expect(serversIn('')).toEqual([]);
  });
});

describe('what ipset saves', () => {
  it("is kube-proxy's sets by their names, and its node ports", () => {
    const saved = `create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536
add KUBE-CLUSTER-IP 10.96.0.10,tcp:9000
create KUBE-6-LOAD-BALANCER-SOURCE-CID hash:ip,port,net family inet6 hashsize 1024 maxelem 65536
create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
add KUBE-NODE-PORT-TCP 30900
create KUBE-NODE-PORT-SCTP-HASH hash:ip,port family inet hashsize 1024 maxelem 65536
add KUBE-NODE-PORT-SCTP-HASH 192.0.2.11,sctp:30901
create KUBE-MINE hash:ip family inet hashsize 1024 maxelem 65536
add KUBE-MINE 192.0.2.1
create KUBE-NODE-PORT-TCP-OF-MINE bitmap:port range 0-65535
add KUBE-NODE-PORT-TCP-OF-MINE 22
`;
    const { names, nodePorts } = setsIn(saved);
    expect(names).toEqual([
      'KUBE-CLUSTER-IP',
      'KUBE-6-LOAD-BALANCER-SOURCE-CID',
      'KUBE-NODE-PORT-TCP',
      'KUBE-NODE-PORT-SCTP-HASH',
    ]);
    expect([...nodePorts]).toEqual(['tcp 30900', 'sctp 30901']);
  });
});
