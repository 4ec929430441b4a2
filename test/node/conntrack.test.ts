import dgram from 'node:dgram';
import net from 'node:net';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Address, Family, Protocol } from '../../src/model/records.ts';
import { countFlows, deleteFlows, type Flow, type FlowMatch, listFlows } from '../../src/node/conntrack.ts';
import { canMakeNamespaces, makeNamespace, type Namespace } from './support/namespace.ts';

const address = (text: string) => text as Address;
const at = (text: string, port: number) => ({ address: address(text), port });

interface World {
  readonly family: Family;
  readonly client: string;
  readonly service: string;
  readonly otherService: string;
  readonly backend: string;
  readonly otherBackend: string;
  readonly stranger: string;
}
const WORLDS: readonly World[] = [
  {
    family: 4,
    client: '10.0.0.1',
    service: '10.0.0.53',
    otherService: '10.0.0.54',
    backend: '10.0.0.11',
    otherBackend: '10.0.0.12',
    stranger: '10.0.0.99',
  },
  {
    family: 6,
    client: 'fd00:a::1',
    service: 'fd00:a::53',
    otherService: 'fd00:a::54',
    backend: 'fd00:a::11',
    otherBackend: 'fd00:a::12',
    stranger: 'fd00:a::99',
  },
];

/** The source port of the one flow that has seen an answer. */
const ANSWERED_PORT = 20013;

/** Flows by name; the source port tells them apart. `to` null: not translated. */
function flowsOf(world: World) {
  const { service, otherService, backend, otherBackend } = world;
  return [
    { name: 'wanted', protocol: 'UDP', port: 20001, destination: at(service, 53), to: at(backend, 5353) },
    {
      name: 'other backend',
      protocol: 'UDP',
      port: 20002,
      destination: at(service, 53),
      to: at(otherBackend, 5353),
    },
    {
      name: 'other backend port',
      protocol: 'UDP',
      port: 20003,
      destination: at(service, 53),
      to: at(backend, 5454),
    },
    { name: 'other port', protocol: 'UDP', port: 20004, destination: at(service, 54), to: at(backend, 5353) },
    {
      name: 'other address',
      protocol: 'UDP',
      port: 20005,
      destination: at(otherService, 53),
      to: at(backend, 5353),
    },
    { name: 'untranslated', protocol: 'UDP', port: 20006, destination: at(service, 53), to: null },
    { name: 'tcp', protocol: 'TCP', port: 20007, destination: at(service, 53), to: at(backend, 5353) },
    {
      name: 'straight to the backend',
      protocol: 'UDP',
      port: 20008,
      destination: at(backend, 5353),
      to: null,
    },
    { name: 'tcp elsewhere', protocol: 'TCP', port: 20012, destination: at(otherService, 53), to: null },
    {
      name: 'tcp answered',
      protocol: 'TCP',
      port: ANSWERED_PORT,
      destination: at(otherService, 53),
      to: null,
    },
    { name: 'sctp', protocol: 'SCTP', port: 20010, destination: at(service, 53), to: null },
    { name: 'sctp other port', protocol: 'SCTP', port: 20011, destination: at(service, 54), to: null },
  ] as const;
}
/** The service's address and port as the *source*. */
const OTHER_DIRECTION = 'other direction';

async function collect(query: Parameters<typeof listFlows>[0], ns: Namespace): Promise<Flow[]> {
  const flows: Flow[] = [];
  for await (const batch of listFlows(query, ns.path)) flows.push(...batch);
  return flows;
}

async function sendUdp(
  family: Family,
  source: string,
  sourcePort: number,
  to: string,
  port: number,
): Promise<void> {
  const socket = dgram.createSocket(family === 4 ? 'udp4' : 'udp6');
  try {
    await new Promise<void>((resolve, reject) =>
      socket.once('error', reject).bind(sourcePort, source, resolve),
    );
    await new Promise<void>((resolve, reject) =>
      socket.send('x', port, to, (error) => (error ? reject(error) : resolve())),
    );
  } finally {
    socket.close();
  }
}

/** Sends one SYN; nobody answers it. */
function sendSyn(
  family: Family,
  source: string,
  sourcePort: number,
  to: string,
  port: number,
): Promise<void> {
  const socket = net.connect({ host: to, port, localAddress: source, localPort: sourcePort, family });
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    setTimeout(() => {
      socket.destroy();
      resolve();
    }, 20);
  });
}

function prepare(ns: Namespace): void {
  ns.run('ip', ['addr', 'add', '10.0.0.1/24', 'dev', 'lo']);
  for (const world of WORLDS.filter(({ family }) => family === 6)) {
    for (const text of [
      world.client,
      world.service,
      world.otherService,
      world.backend,
      world.otherBackend,
      world.stranger,
    ]) {
      ns.run('ip', ['addr', 'add', `${text}/128`, 'dev', 'lo', 'nodad']);
    }
  }
  const rules = WORLDS.flatMap((world) =>
    flowsOf(world).flatMap(({ protocol, port, destination, to }) => {
      if (!to) return [];
      const ip = world.family === 4 ? 'ip' : 'ip6';
      const l4 = protocol.toLowerCase();
      const target = world.family === 4 ? to.address : `[${to.address}]`;
      return [
        `${ip} daddr ${destination.address} ${l4} dport ${destination.port} ${l4} sport ${port} dnat ${ip} to ${target}:${to.port}`,
      ];
    }),
  );
  // The input chain drops, so that no answer changes a flow: all of them stay as their first packet left them.
  ns.run(
    'nft',
    ['-f', '-'],
    `table inet test {
    chain nat { type nat hook output priority -100;\n${rules.join('\n')}\n}
    chain input { type filter hook input priority 0; policy drop; }
  }\n`,
  );
}

describe.skipIf(!canMakeNamespaces())('conntrack', () => {
  let ns: Namespace;
  beforeAll(() => {
    ns = makeNamespace('tpct');
    prepare(ns);
  });
  afterAll(() => ns?.remove());

  async function makeFlows(world: World): Promise<void> {
    ns.run('conntrack', ['-F']);
    await ns.inside(async () => {
      for (const { protocol, port, destination } of flowsOf(world)) {
        if (protocol === 'UDP')
          await sendUdp(world.family, world.client, port, destination.address, destination.port);
        if (protocol === 'TCP' && port !== ANSWERED_PORT)
          await sendSyn(world.family, world.client, port, destination.address, destination.port);
      }
      await sendUdp(world.family, world.service, 53, world.stranger, 20009);
    });
    for (const { protocol, port, destination } of flowsOf(world)) {
      // The kernel of a test machine may lack SCTP sockets; its conntrack knows the protocol all the same.
      const made =
        protocol === 'SCTP'
          ? ['-p', 'sctp', '--state', 'ESTABLISHED', '--orig-vtag', '1', '--reply-vtag', '2']
          : ['-p', 'tcp', '--state', 'ESTABLISHED', '-u', 'SEEN_REPLY'];
      if (protocol !== 'SCTP' && port !== ANSWERED_PORT) continue;
      const addresses = ['-s', world.client, '-d', destination.address];
      const ports = ['--sport', `${port}`, '--dport', `${destination.port}`];
      ns.run('conntrack', ['-I', '-t', '100', ...made, ...addresses, ...ports]);
    }
  }

  async function names(world: World): Promise<string[]> {
    const byPort = new Map<number, string>(flowsOf(world).map(({ name, port }) => [port, name]));
    const flows = await collect({ family: world.family }, ns);
    return flows
      .map(({ original }) =>
        original.destinationPort === 20009 ? OTHER_DIRECTION : (byPort.get(original.sourcePort) ?? '?'),
      )
      .sort();
  }

  const match = (
    protocol: Protocol,
    destination: FlowMatch['destination'],
    answeredBy: FlowMatch['answeredBy'],
  ): FlowMatch => ({ protocol, destination, answeredBy });
  const irrelevant = (world: World): FlowMatch[] =>
    Array.from({ length: 200 }, (_, i) => match('UDP', at(world.service, 1000 + i), 'any'));

  const cases: [string, (world: World) => FlowMatch[], string[]][] = [
    ['one backend', (w) => [match('UDP', at(w.service, 53), at(w.backend, 5353))], ['wanted']],
    ['untranslated', (w) => [match('UDP', at(w.service, 53), 'untranslated')], ['untranslated']],
    [
      'any',
      (w) => [match('UDP', at(w.service, 53), 'any')],
      ['wanted', 'other backend', 'other backend port', 'untranslated'],
    ],
    [
      'two backends',
      (w) => [
        match('UDP', at(w.service, 53), at(w.backend, 5353)),
        match('UDP', at(w.service, 53), at(w.otherBackend, 5353)),
      ],
      ['wanted', 'other backend'],
    ],
    ['another port', (w) => [match('UDP', at(w.service, 54), 'any')], ['other port']],
    ['TCP', (w) => [match('TCP', at(w.service, 53), at(w.backend, 5353))], ['tcp']],
    ['SCTP', (w) => [match('SCTP', at(w.service, 53), 'any')], ['sctp']],
    ['SCTP, untranslated', (w) => [match('SCTP', at(w.service, 54), 'untranslated')], ['sctp other port']],
    [
      'nothing there',
      (w) => [match('UDP', at(w.service, 55), 'any'), match('UDP', at(w.stranger, 53), 'any')],
      [],
    ],
    ['the wrong backend port', (w) => [match('UDP', at(w.service, 53), at(w.backend, 1))], []],
    ['an empty list', () => [], []],
    [
      'twice the same',
      (w) => [
        match('UDP', at(w.service, 53), at(w.backend, 5353)),
        match('UDP', at(w.service, 53), at(w.backend, 5353)),
      ],
      ['wanted'],
    ],
    [
      'TCP without an answer',
      (w) => [{ ...match('TCP', at(w.otherService, 53), 'any'), only: 'unanswered' }],
      ['tcp elsewhere'],
    ],
    [
      'TCP with and without an answer',
      (w) => [match('TCP', at(w.otherService, 53), 'any')],
      ['tcp elsewhere', 'tcp answered'],
    ],
    [
      'of many destinations those without an answer, and one with',
      (w) => [
        ...irrelevant(w).map((one) => ({ ...one, protocol: 'TCP' as const, only: 'unanswered' as const })),
        { ...match('TCP', at(w.otherService, 53), 'untranslated'), only: 'unanswered' },
        { ...match('TCP', at(w.service, 53), at(w.otherBackend, 5353)), only: 'unanswered' },
        match('TCP', at(w.service, 53), at(w.backend, 5353)),
      ],
      ['tcp elsewhere', 'tcp'],
    ],
    [
      'three protocols',
      (w) => [
        match('UDP', at(w.otherService, 53), 'any'),
        match('TCP', at(w.service, 53), 'any'),
        match('SCTP', at(w.service, 53), 'any'),
      ],
      ['other address', 'tcp', 'sctp'],
    ],
    [
      'many destinations',
      (w) => [
        ...irrelevant(w),
        match('UDP', at(w.service, 53), at(w.backend, 5353)),
        match('UDP', at(w.otherService, 53), 'any'),
      ],
      ['wanted', 'other address'],
    ],
  ];

  for (const world of WORLDS) {
    it.each(cases)(`IPv${world.family}: deletes %s and nothing else`, async (_name, matches, gone) => {
      await makeFlows(world);
      const before = await names(world);
      expect(before).toEqual([...flowsOf(world).map(({ name }) => name), OTHER_DIRECTION].sort());
      const result = await deleteFlows(matches(world), ns.path);
      expect(await names(world)).toEqual(before.filter((name) => !gone.includes(name)));
      expect(result.deleted).toBe(gone.length);
      expect(result.dumps).toBeLessThanOrEqual(3);
    });
  }

  it('keeps the other family', async () => {
    await makeFlows(WORLDS[0]!);
    const count = countFlows(ns.path).entries;
    expect(count).toBe(flowsOf(WORLDS[0]!).length + 1);
    await deleteFlows([match('UDP', at(WORLDS[1]!.service, 53), 'any')], ns.path);
    expect(countFlows(ns.path).entries).toBe(count);
    expect(await collect({ family: 6 }, ns)).toEqual([]);
  });

  it('lists flows as they are', async () => {
    await makeFlows(WORLDS[0]!);
    const flow = (await collect({ protocol: 'UDP', destination: at('10.0.0.53', 53) }, ns)).find(
      ({ original }) => original.sourcePort === 20001,
    );
    expect(flow).toMatchObject({
      family: 4,
      protocol: 'UDP',
      state: 'UNREPLIED',
      original: {
        source: '10.0.0.1',
        sourcePort: 20001,
        destination: '10.0.0.53',
        destinationPort: 53,
        packets: 0n,
      },
      reply: { source: '10.0.0.11', sourcePort: 5353, destination: '10.0.0.1', destinationPort: 20001 },
      destinationTranslated: true,
      sourceTranslated: false,
      mark: 0,
      zone: 0,
    });
    expect(flow!.timeoutSeconds).toBeGreaterThan(0);
    const all = await collect({}, ns);
    expect(all.find(({ original }) => original.sourcePort === 20007)?.state).toBe('SYN_SENT');
    expect(all.find(({ protocol }) => protocol === 'SCTP')?.state).toBe('ESTABLISHED');
    for (const [query, count] of [
      [{ protocol: 'UDP' }, 8],
      [{ protocol: 'UDP', destination: at('10.0.0.53', 0) }, 5],
      [{ protocol: 'SCTP', destination: at('10.0.0.53', 54) }, 1],
      [{ protocol: 'TCP' }, 3],
      [{ protocol: 'TCP', only: 'unanswered' }, 2],
      [{ protocol: 'TCP', destination: at('10.0.0.54', 53), only: 'unanswered' }, 1],
      [{ family: 6, protocol: 'UDP' }, 0],
      [{ family: 6, protocol: 'UDP', destination: at('10.0.0.53', 53) }, 0],
    ] as const) {
      expect(await collect(query, ns), JSON.stringify(query)).toHaveLength(count);
    }
  });

  it('tells counters, marks and zones where the kernel keeps them', async () => {
    const other = makeNamespace('tpctz');
    try {
      other.run('ip', ['addr', 'add', '10.0.0.1/24', 'dev', 'lo']);
      other.run('sysctl', ['-q', '-w', 'net.netfilter.nf_conntrack_acct=1']);
      other.run(
        'nft',
        ['-f', '-'],
        `table ip t {
        chain raw { type filter hook output priority -300; udp dport 53 ct zone set 7; }
        chain out { type filter hook output priority 0; ct mark set 0x2a; }
      }\n`,
      );
      await other.inside(() => sendUdp(4, '10.0.0.1', 20001, '10.0.0.53', 53));
      const [flow] = await collect({ protocol: 'UDP', destination: at('10.0.0.53', 53) }, other);
      expect(flow).toMatchObject({ mark: 42, zone: 7, original: { packets: 1n, bytes: 29n } });
      const result = await deleteFlows([match('UDP', at('10.0.0.53', 53), 'any')], other.path);
      expect(result.deleted).toBe(1);
    } finally {
      other.remove();
    }
  });

  it('finds the few among 20,000, in one walk of the table', async () => {
    ns.run('conntrack', ['-F']);
    await ns.inside(async () => {
      const socket = dgram.createSocket('udp4');
      await new Promise<void>((resolve) => socket.bind(20100, '10.0.0.1', resolve));
      for (let i = 0; i < 20_000; i++) {
        const text = `10.0.0.${100 + (i % 10)}`;
        await new Promise((resolve) => socket.send('x', 1000 + Math.floor(i / 10), text, resolve));
      }
      socket.close();
    });
    expect(countFlows(ns.path).entries).toBe(20_000);
    let turns = 0;
    const ticking = setInterval(() => turns++, 1);
    const one = await deleteFlows([match('UDP', at('10.0.0.100', 1000), 'any')], ns.path);
    expect(one).toEqual({ deleted: 1, dumps: 1 });
    const matches = Array.from({ length: 5000 }, (_, i) =>
      match('UDP', at(`10.0.0.${101 + (i % 5)}`, 1000 + Math.floor(i / 5)), 'untranslated'),
    );
    const many = await deleteFlows(matches, ns.path);
    clearInterval(ticking);
    expect(many).toEqual({ deleted: 5000, dumps: 1 });
    expect(countFlows(ns.path).entries).toBe(14_999);
    expect(turns).toBeGreaterThan(0);
    let largest = 0;
    let total = 0;
    for await (const batch of listFlows({ family: 4 }, ns.path)) {
      largest = Math.max(largest, batch.length);
      total += batch.length;
    }
    expect(total).toBe(14_999);
    expect(largest).toBeLessThan(1024);
    // A reader that loses interest: the dump is given up, and the next one works.
    for await (const batch of listFlows({ family: 4 }, ns.path)) {
      expect(batch.length).toBeGreaterThan(0);
      break;
    }
    const rest = await deleteFlows(
      (await collect({ family: 4 }, ns)).map(({ original }) =>
        match('UDP', { address: original.destination, port: original.destinationPort }, 'any'),
      ),
      ns.path,
    );
    expect(rest).toEqual({ deleted: 14_999, dumps: 1 });
    expect(countFlows(ns.path).entries).toBe(0);
  }, 60_000);

  it('ignores flows that end while it works, and two deletions at once share the work', async () => {
    await makeFlows(WORLDS[0]!);
    const matches = [match('UDP', at('10.0.0.53', 53), 'any')];
    const results = await Promise.all(Array.from({ length: 8 }, () => deleteFlows(matches, ns.path)));
    expect(results.reduce((sum, { deleted }) => sum + deleted, 0)).toBe(4);
  });

  it('deletes exactly what the definition says', async () => {
    const endpoint = fc.record({
      address: fc.constantFrom('10.0.0.53', '10.0.0.54', '10.0.0.11').map(address),
      port: fc.constantFrom(53, 54, 5353),
    });
    const anyMatch = fc.record({
      protocol: fc.constantFrom<Protocol>('UDP', 'TCP', 'SCTP'),
      destination: endpoint,
      answeredBy: fc.oneof(fc.constant('any' as const), fc.constant('untranslated' as const), endpoint),
    });
    const meant = (flow: Flow, { protocol, destination, answeredBy }: FlowMatch) => {
      const { original, reply } = flow;
      if (flow.protocol !== protocol) return false;
      if (original.destination !== destination.address || original.destinationPort !== destination.port)
        return false;
      if (answeredBy === 'any') return true;
      const by = answeredBy === 'untranslated' ? destination : answeredBy;
      return reply.source === by.address && reply.sourcePort === by.port;
    };
    await fc.assert(
      fc.asyncProperty(fc.array(anyMatch, { maxLength: 8 }), async (matches) => {
        await makeFlows(WORLDS[0]!);
        const before = await collect({}, ns);
        const gone = before.filter((flow) => matches.some((each) => meant(flow, each)));
        expect((await deleteFlows(matches, ns.path)).deleted).toBe(gone.length);
        const kept = new Set(before.filter((flow) => !gone.includes(flow)).map(({ id }) => id));
        expect(new Set((await collect({}, ns)).map(({ id }) => id))).toEqual(kept);
      }),
      { numRuns: 15 },
    );
  }, 60_000);

  it.each([
    ['port 0', match('UDP', at('10.0.0.1', 0), 'any')],
    ['a port too large', match('UDP', at('10.0.0.1', 65536), 'any')],
    ['a backend of the other family', match('UDP', at('10.0.0.1', 53), at('fd00::1', 53))],
    ['no address', match('UDP', at('nonsense', 53), 'any')],
  ])('refuses %s', async (_name, bad) => {
    await expect(deleteFlows([bad], ns.path)).rejects.toThrow(RangeError);
  });

  it('names what is missing', async () => {
    await expect(
      deleteFlows([match('UDP', at('10.0.0.1', 1), 'any')], '/run/netns/tp-none'),
    ).rejects.toMatchObject({ code: 'ENOENT' });
    expect(() => countFlows('/run/netns/tp-none')).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  });
});
