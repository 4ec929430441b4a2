import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { BALANCER_CIDRS, balancerAddress, serviceAddress } from '../../src/lab/plan.ts';
import { loadWorld, type World } from '../support/bpf-world.ts';
import { LiveWorld } from '../support/live-world.ts';
import { privilege } from '../support/privilege.ts';
import { askSctp, SCTP_SENDER, serveSctp } from '../support/sctp.ts';
import { skipUnless } from '../support/skip.ts';

const able = privilege() === 'root' && existsSync(SCTP_SENDER);
const root = skipUnless(able, 'needs root, and python3 to make SCTP packets');
const FAMILIES = [4, 6] as const;
const PORT = 8080;

root.describe('live SCTP', () => {
  let live: LiveWorld;
  let fabric: World;
  const servers: ChildProcess[] = [];
  let ownPort = 40_000;

  beforeAll(async () => {
    live = await LiveWorld.create('sctp');
    fabric = await loadWorld();
    for (const family of FAMILIES) {
      await live.lab.route(BALANCER_CIDRS[family], 'n1');
      await live.lab.route(`${serviceAddress(family, 12)}/${family === 4 ? 32 : 128}`, 'n1');
      const of = (pod: string) => [live.lab.pod(pod).addresses[family]!, PORT, pod !== 'c'] as const;
      const add = (address: string, spec: object) =>
        live.world.addService({ protocol: 'SCTP', port: 80, address, ...spec });
      add(serviceAddress(family, 10), { backends: [of('b')] });
      add(serviceAddress(family, 11), { backends: [of('c')] });
      add(serviceAddress(family, 12), { inside: 'reject', outside: 'reject' });
      add(serviceAddress(family, 13), { backends: [of('a')] });
      const flags = ABI.F_MASQ_ALWAYS | ABI.F_XDP;
      add(balancerAddress(family, 20), { flags, backends: [of('c')] });
      add(balancerAddress(family, 21), { flags, backends: [of('b')] });
      for (const pod of ['a', 'b', 'c']) servers.push(await serveSctp(live.lab.pod(pod), family, PORT, pod));
    }
  }, 60_000);
  afterAll(() => {
    for (const server of servers) server.kill('SIGKILL');
    fabric?.close();
    live?.remove();
  });
  beforeEach(() => live.world.forget());
  afterEach(async () => expect(await live.foreignDrops()).toBe(0));

  const ask = (from: 'client' | 'a' | 'node', address: string) => {
    const place =
      from === 'client' ? live.lab.client : from === 'node' ? live.lab.node('n1') : live.lab.pod(from);
    return askSctp(place, address, 80, ownPort++);
  };

  describe.each(FAMILIES)('IPv%i', (family) => {
    const node = () => live.lab.node('n1').addresses[family]!;
    const mine = () => live.lab.pod('a').addresses[family]!;

    test('through tc, every way there is', async () => {
      live.attach('tcx');
      try {
        expect(await ask('a', serviceAddress(family, 10))).toBe(`b ${mine()}`);
        expect(await ask('a', serviceAddress(family, 11))).toBe(`c ${mine()}`);
        expect(await ask('a', serviceAddress(family, 12))).toBe('refused');
        expect(await ask('client', serviceAddress(family, 12))).toBe('refused');
        expect(await ask('a', serviceAddress(family, 13))).toBe(`a ${node()}`);
        expect(await ask('client', balancerAddress(family, 20))).toBe(`c ${node()}`);
        expect(await ask('client', balancerAddress(family, 21))).toBe(`b ${node()}`);
        expect(await ask('node', serviceAddress(family, 11))).toBe(`c ${node()}`);
      } finally {
        live.detach();
      }
    });

    test('through XDP, past the stack', async () => {
      live.attach('tcx');
      live.attachXdp('native');
      live.attachFabric(fabric.programs.tp_xdp!);
      try {
        expect(await ask('client', balancerAddress(family, 20))).toBe(`c ${node()}`);
        expect(live.wholes()).toEqual({ whole: 1, split: 0 });
        expect(await ask('client', balancerAddress(family, 21))).toBe(`b ${node()}`);
      } finally {
        live.detach();
      }
    });
  });
});
