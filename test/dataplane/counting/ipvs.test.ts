import { expect, test } from 'vitest';
import { IpvsDataplane } from '../../../src/dataplane/ipvs/ipvs-dataplane.ts';
import type { DesiredService } from '../../../src/model/desired.ts';
import { ip } from '../../model/world.ts';
import { ipvs } from '../../support/ipvs.ts';
import { web } from '../../support/web.ts';
import { expectConnectionsAlone, FOUR, testCounting, WAIT } from './table.ts';

/** linux/ip_vs.h: IP_VS_SO_SET_FLUSH, and IP_VS_SO_SET_ZERO with an ip_vs_service_user that names none: as ipvsadm -C and -Z. */
const CONTROL = { flush: '1157, ""', zero: '1167, "\\0" x 44' } as const;

testCounting(
  { title: 'ipvs', gate: ipvs, open: (netns, traffic) => new IpvsDataplane({ netns, traffic }) },
  (ground) => {
    test('level connections counts no packet', () => expectConnectionsAlone(ground));

    const call = (count: number, protocol: 'tcp' | 'udp' = 'tcp', to = '10.200.1.10', port = 9000) =>
      ground.world.place('pod').call(protocol, to, port, { count });
    const connections = () => ground.connections('test/web-10');
    const control = async (what: keyof typeof CONTROL) => {
      // AF_INET, SOCK_RAW, IPPROTO_RAW; IPPROTO_IP. Every Debian has Perl, and it starts at once.
      const text = `socket(S, 2, 3, 255) && setsockopt(S, 0, ${CONTROL[what]}) || die $!`;
      expect(await ground.world.run('node', ['perl', '-e', text])).toMatchObject({ status: 0, stderr: '' });
    };

    test('what a predecessor has counted is not counted again; what it makes anew begins at 0', async () => {
      const services = [web(10, FOUR)];
      await ground.start({ level: 'traffic', by: 'endpoint' }, services);
      await call(6);
      await expect.poll(connections, WAIT).toBe(6);
      const dataplane = await ground.start({ level: 'traffic', by: 'endpoint' }, services);
      expect(await connections()).toBe(0);
      await call(4);
      await expect.poll(connections, WAIT).toBe(4);
      await control('zero');
      await call(3);
      await expect.poll(connections, WAIT).toBe(7);
      // Other virtual services under the same numbers, which count more than the last that was seen of the old ones.
      await control('flush');
      expect((await dataplane.verify(ground.state)).repaired).not.toEqual([]);
      await call(9);
      await expect.poll(connections, WAIT).toBe(16);
      expect(ground.state.services.size).toBe(1);
    });

    test('a backend of datagrams comes back with or without what it had counted; a service is gone and counted', async () => {
      const services = [web(10, FOUR.slice(0, 1))];
      await ground.start({ level: 'traffic', by: 'endpoint' }, services);
      await call(5, 'udp');
      await expect.poll(connections, WAIT).toBe(5);
      await ground.apply([web(10, FOUR.slice(1))]);
      await ground.apply(services);
      expect(await connections()).toBe(5);
      await call(3, 'udp');
      await expect.poll(connections, WAIT).toBe(8);

      await ground.start({ level: 'connections', by: 'service' }, services);
      await call(7, 'udp');
      await ground.apply([]);
      await expect.poll(connections, WAIT).toBe(7);
    });

    test('a NodePort at every address of the node, for sources inside and outside, is one service port', async () => {
      const service = nodePorts(web(30, FOUR));
      await ground.start({ level: 'traffic', by: 'service' }, [service]);
      const outside = ground.world.place('outside');
      await outside.call('tcp', '192.0.2.11', 31030, { count: 3 });
      await call(4, 'tcp', '192.0.2.11', 31030);
      await call(5, 'tcp', '192.0.2.111', 31030);
      await expect.poll(() => ground.connections('test/web-30'), WAIT).toBe(12);
      expect(await ground.cells('test/web-30:tcp')).toHaveLength(1);
    });
  },
);

/** With externalTrafficPolicy Local, and at another address of the node as well. */
function nodePorts(service: DesiredService): DesiredService {
  const ports = service.ports.map((port) => ({
    ...port,
    local: port.cluster.filter(({ local }) => local),
    frontends: port.frontends.flatMap((frontend) =>
      frontend.kind === 'NodePort'
        ? [frontend.address, ip('192.0.2.111')].map((address) => ({
            ...frontend,
            ...{ address, outside: 'local' as const, masquerade: 'node' as const },
          }))
        : [frontend],
    ),
  }));
  return { ...service, ports };
}
