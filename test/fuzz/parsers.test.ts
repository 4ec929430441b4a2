/**
 * Damaged and random input for everything that reads text or bytes from outside. What must hold: no crash, no hang,
 * no error but those of the contract, and nothing unchecked comes out.
 */
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { parseConfigFile } from '../../src/config/file.ts';
import { ABI, poolParts, poolWord, readAddress, writeAddress } from '../../src/dataplane/ebpf/abi.ts';
import { addressBytes, familyOf, formatAddress, parseAddress, parseCidr } from '../../src/model/address.ts';
import { TriplaneError } from '../../src/model/errors.ts';
import { type Address, type Family, keyOf } from '../../src/model/records.ts';
import { findCgroup2 } from '../../src/node/kernel.ts';
import { parsePrivilege } from '../../src/node/privilege.ts';
import { formatPorts, parsePorts } from '../../src/node/reserved-ports.ts';
import { escapeText } from '../../src/observe/escape.ts';
import { classify, NEVER_BACKEND, NEVER_SERVED } from '../../src/source/decode/addresses.ts';
import { DECODERS, sortObject } from '../../src/source/decode/object.ts';
import { parseEvent } from '../../src/source/kubernetes/events.ts';
import { LineSplitter } from '../../src/source/kubernetes/lines.ts';
import { ListSplitter } from '../../src/source/kubernetes/list-splitter.ts';
import { parseManifest } from '../../src/source/manifests/parse.ts';
import { node, pod, service, serviceCidr, slice } from '../source/decode/objects.ts';

vi.setConfig({ testTimeout: 120_000 });

const CONFIG = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.0.0.0/8,fd00::/64
nodePortAddresses: [primary]
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 1h}
triplane: {serviceCIDRs: [10.96.0.0/12], externalIPCIDRs: []}
`;
const WHOLE = [
  service(
    {
      ...{ type: 'LoadBalancer', externalIPs: ['203.0.113.1'], clusterIPs: ['10.200.1.1', 'fd00::1'] },
      ...{ loadBalancerSourceRanges: ['192.0.2.0/24'], sessionAffinity: 'ClientIP' },
      ports: [{ name: 'a', port: 80, nodePort: 30080, protocol: 'TCP' }],
    },
    {
      labels: { a: 'b' },
      annotations: { 'triplane.dev/x': 'y' },
      uid: 'u',
      creationTimestamp: '2024-01-01T00:00:00Z',
    },
    { loadBalancer: { ingress: [{ ip: '198.18.0.1', ipMode: 'VIP' }] } },
  ),
  slice({
    endpoints: [
      {
        ...{
          addresses: ['10.10.1.2'],
          nodeName: 'n1',
          zone: 'z',
          conditions: { ready: true, serving: true },
        },
        hints: { forZones: [{ name: 'z' }], forNodes: [{ name: 'n1' }] },
      },
    ],
  }),
  node(
    { podCIDRs: ['10.1.0.0/24'], taints: [{ key: 'a/b', effect: 'NoSchedule' }] },
    { labels: { 'topology.kubernetes.io/zone': 'z' } },
    { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
  ),
  serviceCidr(['10.96.0.0/12']),
  pod({}, { annotations: { 'kubernetes.io/config.mirror': 'ab', 'kubernetes.io/config.hash': 'ab' } }),
] as const;

/** What an attacker would write where a name, an address or a number is expected. */
const NASTY = [
  ...[
    '',
    ' ',
    '\u0000',
    '\n',
    'a\nb',
    '"; flush ruleset; #',
    '$(reboot)',
    '`id`',
    '../../etc',
    '{{',
    '%s%n',
    '\u202e',
  ],
  ...[
    '__proto__',
    'constructor',
    'x'.repeat(100_000),
    '127.0.0.1',
    '::1',
    '::ffff:127.0.0.1',
    '169.254.169.254',
  ],
  ...[
    'fe80::1',
    'fe80::1%eth0',
    '224.0.0.1',
    'ff02::1',
    '0.0.0.0',
    '::',
    '255.255.255.255',
    '010.0.0.1',
    '1.2.3.4/33',
  ],
  ...[
    -1,
    0,
    65536,
    1e308,
    Number.MAX_SAFE_INTEGER,
    0.5,
    true,
    false,
    null,
    [],
    {},
    [[]],
    [null],
    { length: 5 },
  ],
];
const nasty = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...NASTY) },
  fc.jsonValue(),
  fc.string({ unit: 'binary' }),
);

/** All places in a value, each as the keys that lead there. */
function placesOf(value: unknown, path: readonly string[] = []): (readonly string[])[] {
  if (typeof value !== 'object' || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([key, inner]) => placesOf(inner, [...path, key]))];
}

function replaced(value: unknown, path: readonly string[], by: unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return by;
  const copy: Record<string, unknown> = Array.isArray(value)
    ? ([...value] as never)
    : { ...(value as object) };
  copy[key] = replaced(copy[key], rest, by);
  return copy;
}

/** A valid object with one to three of its places replaced. */
const damaged = fc.constantFrom(...WHOLE).chain((object) => {
  const places = placesOf(object);
  const wounds = fc.array(fc.tuple(fc.nat(places.length - 1), nasty), { minLength: 1, maxLength: 3 });
  return wounds.map((list) =>
    list.reduce<unknown>((value, [at, by]) => {
      try {
        return replaced(value, places[at]!, by);
      } catch {
        // An earlier wound took the place away.
        return value;
      }
    }, object),
  );
});

const LABEL = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/;
const isSafe = (text: string) => text === '' || /^[A-Za-z0-9._/-]{1,317}$/.test(text);

function expectChecked(raw: unknown): void {
  const kind = (['Service', 'EndpointSlice', 'Node', 'ServiceCIDR', 'Pod'] as const).find(
    (one) => one === (raw as { kind?: unknown } | null)?.kind,
  );
  for (const [name, decode] of Object.entries(DECODERS)) {
    const decoded = decode(raw);
    if (decoded.outcome === 'refused') {
      expect(`${decoded.object}${decoded.reason}`).not.toMatch(/[^\x20-\x7e]/);
      expect(decoded.object.length + decoded.reason.length).toBeLessThan(2000);
    }
    if (decoded.outcome !== 'record' || name !== kind) continue;
    const { record } = decoded;
    for (const part of keyOf(record).split('/')) expect(part).toMatch(LABEL);
    for (const fault of decoded.faults) expect(fault).not.toMatch(/[^\x20-\x7e]/);
    if (record.kind === 'Service') {
      for (const address of [...record.clusterIPs, ...record.externalIPs, ...record.loadBalancerIPs])
        expect(NEVER_SERVED).not.toContain(classify(address));
      for (const port of record.ports) {
        expect(isSafe(port.name)).toBe(true);
        for (const number of [port.port, port.nodePort]) expect(number >>> 16).toBe(0);
      }
    }
    if (record.kind === 'EndpointSlice') {
      for (const { address, nodeName, zone } of record.endpoints) {
        expect(NEVER_BACKEND).not.toContain(classify(address));
        expect(familyOf(address)).toBe(record.family);
        expect(isSafe(nodeName) && isSafe(zone)).toBe(true);
      }
    }
    if (record.kind === 'Pod') {
      expect(record.cgroupUid).toMatch(/^[A-Za-z0-9._:-]{1,128}$/);
      expect(isSafe(record.nodeName)).toBe(true);
    }
    if (record.kind === 'Node') {
      expect(isSafe(record.zone) && record.taints.every(isSafe)).toBe(true);
      for (const address of record.addresses) expect(NEVER_SERVED).not.toContain(classify(address));
    }
  }
}

/** A text with a stretch of it replaced. */
const mangled = (text: string) =>
  fc
    .tuple(
      fc.nat(text.length),
      fc.nat(40),
      fc.oneof(
        fc.string({ unit: 'binary', maxLength: 30 }),
        fc.constantFrom('&a [*a,*a]', '---\n', '!!js/function x', '{', '- ', ': ', '\t'),
      ),
    )
    .map(([at, length, by]) => text.slice(0, at) + by + text.slice(at + length));

describe('objects', () => {
  it('a damaged object comes out checked, or is refused in one printable line', () => {
    fc.assert(fc.property(damaged, expectChecked), { numRuns: 1500 });
  });

  it('every single place of every object, with everything nasty', () => {
    for (const object of WHOLE)
      for (const place of placesOf(object))
        for (const by of NASTY) expectChecked(replaced(object, place, by));
  });

  it('any JSON is sorted without an error', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => void sortObject(value)),
      { numRuns: 2000 },
    );
  });
});

describe('texts', () => {
  it('a damaged configuration file is read or refused with a code', () => {
    fc.assert(
      fc.property(fc.oneof(mangled(CONFIG), fc.string({ unit: 'binary' })), (text) => {
        try {
          parseConfigFile(text, 'f');
        } catch (error) {
          expect(error).toBeInstanceOf(TriplaneError);
          expect((error as Error).message).not.toMatch(/[\n\r\u0000]/);
        }
      }),
      { numRuns: 800 },
    );
  });

  it('a damaged manifest gives documents or errors in one line, and never throws', async () => {
    const text = WHOLE.map((object) => JSON.stringify(object, null, 1)).join('\n---\n');
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(mangled(text), mangled(CONFIG), fc.string({ unit: 'binary' })),
        async (broken) => {
          for await (const { error, value } of parseManifest(broken)) {
            expect(error).not.toMatch(/[\n\r]/);
            if (error === '') expectChecked(value);
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  it('a damaged line of a watch is an event or an Error', () => {
    const line = JSON.stringify({ type: 'ADDED', object: WHOLE[0] });
    fc.assert(
      fc.property(fc.oneof(mangled(line), fc.json()), (text) => {
        let event: ReturnType<typeof parseEvent>;
        try {
          event = parseEvent(text);
        } catch (error) {
          expect((error as Error).constructor).toBe(Error);
          return;
        }
        if (event.type === 'set' || event.type === 'delete') expectChecked(event.raw);
      }),
      { numRuns: 2000 },
    );
  });

  it('random bytes in a list or a watch are cut into pieces or refused, within their bounds', () => {
    const list = Buffer.from(
      JSON.stringify({ kind: 'ServiceList', metadata: { resourceVersion: '1' }, items: WHOLE }),
    );
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 500 }),
      fc
        .tuple(fc.nat(list.length), fc.uint8Array({ maxLength: 8 }))
        .map(([at, by]) => Buffer.concat([list.subarray(0, at), by, list.subarray(at + by.length)])),
    );
    fc.assert(
      fc.property(bytes, fc.integer({ min: 1, max: 64 }), (all, size) => {
        for (const splitter of [new ListSplitter(4096), new LineSplitter(4096)]) {
          try {
            for (let at = 0; at < all.length; at += size)
              [...splitter.feed(Buffer.from(all.subarray(at, at + size)))];
            if (splitter instanceof ListSplitter) splitter.end();
          } catch (error) {
            expect(['Error', 'SyntaxError', 'RangeError']).toContain((error as Error).constructor.name);
          }
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('what the kernel writes in /proc reads without an error, whatever it is', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        findCgroup2(text);
        parsePorts(text);
        parsePrivilege(/[0-9a-f]{17}/.test(text) ? '' : text, text);
        expect(escapeText(text)).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202e]/);
      }),
    );
    expect(formatPorts(parsePorts('8080,9148-9150'))).toBe('8080,9148-9150');
  });
});

describe('addresses and records', () => {
  const four = fc.uint8Array({ minLength: 4, maxLength: 4 });
  const six = fc.uint8Array({ minLength: 16, maxLength: 16 });

  it('any bytes become one canonical text, which reads as itself', () => {
    fc.assert(
      fc.property(fc.oneof(four, six), (bytes) => {
        const text = formatAddress(bytes);
        expect(parseAddress(text)).toBe(text);
      }),
    );
  });

  it('any text is an address, a range, or null', () => {
    // Not String(): an object may have a key "toString".
    const words = nasty.map((value) => (typeof value === 'string' ? value : fc.stringify(value)));
    const text = fc.oneof(fc.string(), fc.ipV4(), fc.ipV6(), fc.ipV4Extended(), words);
    fc.assert(
      fc.property(text, fc.nat(200), (one, bits) => {
        const address = parseAddress(one);
        if (address !== null) expect(parseAddress(address)).toBe(address);
        const range = parseCidr(`${one}/${bits}`);
        if (range !== null) expect(parseCidr(range)).toBe(range);
      }),
      { numRuns: 2000 },
    );
  });

  it('BPF: an address in a record reads as it was written, and touches nothing beside it', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.tuple(fc.constant(4 as Family), four), fc.tuple(fc.constant(6 as Family), six)),
        ([family, bytes]) => {
          const address = formatAddress(bytes) as Address;
          // An IPv4-mapped address is the IPv4 address that it is.
          if (familyOf(address) !== family) return;
          const record = new Uint8Array(48).fill(0xee);
          writeAddress(record, 16, address);
          expect(readAddress(record, 16, family)).toBe(address);
          expect(addressBytes(address)).toEqual(Uint8Array.from(bytes));
          expect([...record.subarray(0, 16), ...record.subarray(32)].every((byte) => byte === 0xee)).toBe(
            true,
          );
        },
      ),
    );
  });

  it('BPF: the word of a pool says what was put into it', () => {
    const [base, count] = [fc.integer({ min: 0, max: 2 ** 31 - 1 }), fc.integer({ min: 0, max: 65_535 })];
    fc.assert(
      fc.property(base, count, fc.integer({ min: 0, max: 3 }), (first, size, answer) => {
        expect(poolParts(poolWord(first, size, answer))).toEqual({ base: first, count: size, answer });
      }),
    );
    expect(Object.values(ABI).every((value) => Number.isInteger(value))).toBe(true);
  });
});
