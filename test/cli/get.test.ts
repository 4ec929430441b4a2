import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { cleanupCommand } from '../../src/cli/cleanup.ts';
import { ExitWith } from '../../src/cli/exit-with.ts';
import { getCommand, nodeTable } from '../../src/cli/get.ts';
import {
  type ConnectionView,
  type KernelReader,
  MACHINERY,
  type Machinery,
} from '../../src/cli/machinery.ts';
import { probeCommand } from '../../src/cli/probe.ts';
import type { EndpointView, ServiceView } from '../../src/dataplane/dataplane.ts';
import { parseAddress } from '../../src/model/address.ts';
import { TriplaneError } from '../../src/model/errors.ts';
import type { AdminNode } from '../../src/observe/admin.ts';

const A = (text: string) => parseAddress(text)!;
const service = (
  name: string,
  address: string,
  port: number,
  more: Partial<ServiceView> = {},
): ServiceView => ({
  service: name,
  kind: 'ClusterIP',
  address: A(address),
  port,
  protocol: 'TCP',
  inside: '2 backends',
  outside: '',
  affinitySeconds: 0,
  masquerade: 'strangers',
  sourceRanges: 0,
  ...more,
});
const SERVICES: ServiceView[] = [
  service('default/web:https', '10.96.0.9', 443),
  service('default/web:http', '10.96.0.10', 80, {
    kind: 'LoadBalancer',
    outside: 'drop',
    affinitySeconds: 10800,
    sourceRanges: 12,
  }),
  service('default/web:http', 'fd00::a', 80),
  service('default/web:http', '10.96.0.9', 80),
  service('default/webby', '10.96.0.1', 80, { inside: 'reject' }),
  service('kube-system/dns\u001b[2J', '10.96.0.2', 53, { protocol: 'UDP' }),
];
const endpoint = (name: string, address: string, pool: 'cluster' | 'local'): EndpointView => ({
  service: name,
  pool,
  address: A(address),
  port: 8080,
  protocol: 'TCP',
});
const ENDPOINTS = [
  endpoint('b/b', '10.0.0.10', 'cluster'),
  endpoint('b/b', '10.0.0.9', 'cluster'),
  endpoint('b/b', '10.0.0.9', 'local'),
  endpoint('a/a', 'fd00::1', 'cluster'),
];
const CONNECTIONS: ConnectionView[] = [
  {
    protocol: 'TCP',
    client: { address: A('10.0.0.2'), port: 4000 },
    frontend: { address: A('10.96.0.9'), port: 80 },
    backend: { address: A('10.0.0.9'), port: 8080 },
    masqueradedAs: null,
    state: 'ESTABLISHED',
    expiresSeconds: 86399,
  },
  {
    protocol: 'UDP',
    client: { address: A('fd00::2'), port: 5000 },
    frontend: { address: A('fd00::a'), port: 53 },
    backend: { address: A('fd00::9'), port: 53 },
    masqueradedAs: { address: A('fd00::1'), port: 61000 },
    state: '',
    expiresSeconds: 29,
  },
];
const reader = (held: boolean): KernelReader => ({
  read: async () => (held ? { services: SERVICES, endpoints: ENDPOINTS } : null),
  connections: async () => (held ? CONNECTIONS : []),
});
const machinery: Machinery = {
  ...MACHINERY,
  readers: { nft: async () => reader(true), ipvs: async () => reader(false), ebpf: null },
};

async function get(...args: string[]): Promise<string> {
  let out = '';
  const program = new Command().exitOverride();
  program.addCommand(getCommand({ out: (text) => (out += text), err: () => {} }, machinery));
  await program.parseAsync(['get', ...args], { from: 'user' });
  return out;
}

describe('get', () => {
  it('services: sorted by name and by number, aligned, never cut, escaped', async () => {
    expect(await get('services')).toBe(
      [
        'SERVICE                   KIND          FRONTEND       PROTOCOL  INSIDE      OUTSIDE     AFFINITY',
        'default/web:http          ClusterIP     10.96.0.9:80   TCP       2 backends  2 backends  -',
        'default/web:http          LoadBalancer  10.96.0.10:80  TCP       2 backends  drop        10800s',
        'default/web:http          ClusterIP     [fd00::a]:80   TCP       2 backends  2 backends  -',
        'default/web:https         ClusterIP     10.96.0.9:443  TCP       2 backends  2 backends  -',
        'default/webby             ClusterIP     10.96.0.1:80   TCP       reject      reject      -',
        'kube-system/dns\\u001b[2J  ClusterIP     10.96.0.2:53   UDP       2 backends  2 backends  -',
        '',
      ].join('\n'),
    );
  });

  it.each([
    ['default/web', 4],
    ['default/web:https', 1],
    ['default/', 5],
    ['nowhere/x', 0],
  ])('services of %s', async (name, count) => {
    expect((await get('services', name)).trimEnd().split('\n')).toHaveLength(count + 1);
  });

  it('the wide table has more columns', async () => {
    const lines = (await get('services', '-o', 'wide')).split('\n');
    expect(lines[0]).toMatch(/AFFINITY {2}MASQUERADE {2}RANGES$/);
    expect(lines[2]).toMatch(/10800s {4}strangers {7}12$/);
  });

  it('JSON and YAML hold whole rows', async () => {
    const json = JSON.parse(await get('services', 'default/webby', '--output=json'));
    expect(json).toEqual([SERVICES[4]]);
    expect(parse(await get('services', 'default/webby', '--output=yaml'))).toEqual(json);
    expect(JSON.parse(await get('services', 'no/ne', '-o', 'json'))).toEqual([]);
  });

  it('endpoints', async () => {
    expect(await get('endpoints')).toBe(
      [
        'SERVICE  ENDPOINT        PROTOCOL  POOL',
        'a/a      [fd00::1]:8080  TCP       cluster',
        'b/b      10.0.0.9:8080   TCP       cluster',
        'b/b      10.0.0.10:8080  TCP       cluster',
        'b/b      10.0.0.9:8080   TCP       local',
        '',
      ].join('\n'),
    );
  });

  it('connections', async () => {
    expect(await get('connections', '-o', 'wide')).toBe(
      [
        'PROTOCOL  CLIENT          FRONTEND      BACKEND        STATE        MASQUERADED-AS   EXPIRES',
        'TCP       10.0.0.2:4000   10.96.0.9:80  10.0.0.9:8080  ESTABLISHED  -                 86399s',
        'UDP       [fd00::2]:5000  [fd00::a]:53  [fd00::9]:53   -            [fd00::1]:61000      29s',
        '',
      ].join('\n'),
    );
  });
});

describe('get node', () => {
  const problem = (n: number) => ({
    ...{ code: 'TP_BAD_OBJECT' as const, object: `Service a/s${n}`, reason: 'spec.ports[0].port is missing' },
    origin: '',
  });
  const node: AdminNode = {
    ...{ name: 'n1', known: true, absent: false, deleting: false, taints: [], zone: '' },
    addresses: [A('10.0.0.1')],
    mode: {
      ...{ mode: 'nft', requested: 'auto', reason: 'ebpf lacks BPF', degrees: [] },
      ...{ switching: '', draining: [], failure: '' },
    },
    ...{ synced: true, holdup: '', problems: [] },
  };

  it('says what it waits for, and what is refused', () => {
    expect(nodeTable(node, 'table')).not.toMatch(/Not done|Problem/);
    const text = nodeTable(
      { ...node, synced: false, holdup: 'waiting for API nodes: no', problems: [problem(0)] },
      'table',
    );
    expect(text).toMatch(/^Not done +waiting for API nodes: no$/m);
    expect(text).toMatch(/^Problem TP_BAD_OBJECT +Service a\/s0: spec.ports\[0\].port is missing$/m);
  });

  it('ends a long list', () => {
    const problems = Array.from({ length: 25 }, (_, n) => problem(n));
    const text = nodeTable({ ...node, problems }, 'table');
    expect(text.match(/^Problem TP_BAD_OBJECT/gm)).toHaveLength(20);
    expect(text).toMatch(/^Problems +and 5 more: -o json shows all$/m);
  });
});

describe('cleanup', () => {
  const call = async (cleaners: Machinery['cleaners'], ...args: string[]) => {
    let out = '';
    const command = cleanupCommand(
      { out: (text) => (out += text), err: (text) => (out += text) },
      { ...MACHINERY, cleaners },
    );
    const failure = await command.parseAsync(args, { from: 'user' }).then(
      () => null,
      (error: Error) => error.message,
    );
    return { out, failure };
  };

  it('says what it removed, or that there was nothing', async () => {
    expect(
      await call({ nft: async () => async () => ['table ip triplane'], ipvs: null, ebpf: null }),
    ).toEqual({ out: 'nft: removed table ip triplane\n', failure: null });
    expect(await call({ nft: async () => async () => [], ipvs: null, ebpf: null })).toEqual({
      out: 'there was nothing to remove\n',
      failure: null,
    });
  });

  it('goes on where one mode fails', async () => {
    const fail = async () => {
      throw new TriplaneError('TP_KERNEL_REFUSED', 'busy');
    };
    expect(
      await call({ nft: async () => fail, ipvs: async () => async () => ['2 services'], ebpf: null }),
    ).toEqual({ out: 'ipvs: removed 2 services\n', failure: 'busy' });
  });

  it('says what several modes fail for once', async () => {
    const fail = (message: string) => async () => async () => {
      throw new TriplaneError('TP_NO_PRIVILEGE', message);
    };
    const { out, failure } = await call({ nft: fail('no'), ipvs: fail('no'), ebpf: fail('not at all') });
    expect(failure).toBe('no');
    expect(out).toMatch(/^triplane: TP_NO_PRIVILEGE: not at all\. [^\n]+\n$/);
  });
});

describe('probe', () => {
  it('prints one table and the choice; no usable mode is exit code 1', async () => {
    let out = '';
    const rows = [
      { mode: 'nft', need: 'nat chain', weight: 'required', answer: 'no', remedy: 'modprobe nft_chain_nat' },
    ] as const;
    const report = { kernel: '6.1.0', rows, auto: { mode: '', reason: 'nothing fits' } } as const;
    const command = probeCommand(
      { out: (text) => (out += text), err: () => {} },
      { ...MACHINERY, probe: async () => async () => report },
    );
    await expect(command.parseAsync([], { from: 'user' })).rejects.toBeInstanceOf(ExitWith);
    expect(out).toMatch(
      /^kernel 6\.1\.0\n\nMODE {2}NEED .*\nnft {3}nat chain {2}required {2}no {6}modprobe nft_chain_nat\n\nno mode can run: nothing fits\n$/,
    );
  });
});
