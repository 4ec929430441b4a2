import { isIP, isIPv4, isIPv6 } from 'node:net';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  addressBytes,
  addressSortKey,
  cidrContains,
  cidrParts,
  compareAddresses,
  familyOf,
  formatAddress,
  isLoopback,
  mergeCidrs,
  parseAddress,
  parseCidr,
} from '../../src/model/address.ts';
import type { Address, Cidr } from '../../src/model/records.ts';

const MAPPED = /^::ffff:[0-9a-f]{1,4}:[0-9a-f]{1,4}$/;

/** RFC 5952 by somebody else: the URL parser of WHATWG, which never writes an embedded IPv4 address. */
function canonicalIPv6(text: string): string {
  return new URL(`http://[${text}]/`).hostname.slice(1, -1);
}

const bytes4 = fc.uint8Array({ minLength: 4, maxLength: 4 });
/** With many zeros, so that runs of zero groups are common. */
const groups6 = fc.array(fc.oneof(fc.constant(0), fc.constant(0), fc.integer({ min: 0, max: 0xffff })), {
  minLength: 8,
  maxLength: 8,
});
const bytes6 = groups6.map((groups) => Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 255])));
const address = fc.oneof(bytes4, bytes6).map(formatAddress);
const cidr = fc.oneof(
  fc.tuple(bytes4, fc.integer({ min: 0, max: 32 })),
  fc.tuple(bytes6, fc.integer({ min: 0, max: 128 })),
);
/** Text made of what addresses are made of: nearly all of it is nearly an address. */
const nearlyAddress = fc
  .array(fc.constantFrom('0', '1', '25', '255', '256', 'f', 'ffff', 'A', '.', ':', '::', '%', ' ', '/'), {
    maxLength: 16,
  })
  .map((parts) => parts.join(''));

describe('parseAddress', () => {
  const rows: [name: string, text: string, canonical: string | null][] = [
    ['IPv4', '10.0.0.1', '10.0.0.1'],
    ['leading zeros are decimal', '010.000.0.0009', '10.0.0.9'],
    ['an octet above 255', '10.0.0.256', null],
    ['three octets', '10.0.1', null],
    ['five octets', '10.0.0.0.1', null],
    ['a trailing dot', '10.0.0.1.', null],
    ['white space', ' 10.0.0.1', null],
    ['a sign', '+1.0.0.1', null],
    ['hexadecimal octets', '0x10.0.0.1', null],
    ['nothing', '', null],
    ['a name', 'web.default', null],
    ['upper case and leading zeros', '2001:0DB8::0001', '2001:db8::1'],
    ['the unspecified address', '::', '::'],
    ['the loopback address', '0:0:0:0:0:0:0:1', '::1'],
    ['one zero group is written out', '2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['one zero group given as a gap', '2001:db8::1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['the longest run of zeros becomes the gap', '2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['the first of equal runs becomes the gap', '2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['a run at the end', '1:0:0:0:0:0:0:0', '1::'],
    ['IPv4-mapped becomes IPv4', '::ffff:1.2.3.4', '1.2.3.4'],
    ['IPv4-mapped in hexadecimal', '::FFFF:102:304', '1.2.3.4'],
    ['IPv4-mapped with leading zeros', '::ffff:01.02.03.004', '1.2.3.4'],
    ['an embedded IPv4 address elsewhere', '64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
    ['IPv4-compatible stays IPv6', '::1.2.3.4', '::102:304'],
    ['an embedded IPv4 address too early', '1:2:3:4:5:1.2.3.4', null],
    ['an embedded IPv4 address too late', '1:2:3:4:5:6:7:1.2.3.4', null],
    ['a gap for nothing', '1:2:3:4::5:6:7:8', null],
    ['two gaps', '1::2::3', null],
    ['three colons', '1:::2', null],
    ['a leading colon', ':1:2:3:4:5:6:7', null],
    ['a trailing colon', '1:2:3:4:5:6:7:', null],
    ['seven groups', '1:2:3:4:5:6:7', null],
    ['nine groups', '1:2:3:4:5:6:7:8:9', null],
    ['a group that is too large', '::10000', null],
    ['more than four digits of a small number, as Go takes it', '::00001', '::1'],
    ['a zone', 'fe80::1%eth0', null],
    ['brackets', '[::1]', null],
    ['a CIDR', '10.0.0.0/8', null],
  ];
  it.each(rows)('%s: %j', (_name, text, canonical) => {
    expect(parseAddress(text)).toBe(canonical);
  });

  it('agrees with node:net on what is an address, but for leading zeros', () => {
    fc.assert(
      fc.property(nearlyAddress, (text) => {
        const canonical = parseAddress(text);
        // node:net knows zones and refuses leading zeros; Go's sloppy parser does the opposite.
        if (isIP(text) && !text.includes('%')) expect(canonical).not.toBeNull();
        if (canonical === null || /(^|[.:])0+[0-9a-f]/i.test(text)) return;
        expect(isIP(text)).not.toBe(0);
      }),
      { numRuns: 5000 },
    );
  });

  it('writes RFC 5952 and is idempotent', () => {
    fc.assert(
      fc.property(fc.ipV6(), (text) => {
        const canonical = parseAddress(text)!;
        const reference = canonicalIPv6(text);
        if (MAPPED.test(reference)) expect(isIPv4(canonical)).toBe(true);
        else expect(canonical).toBe(reference);
        expect(parseAddress(canonical)).toBe(canonical);
      }),
      { numRuns: 2000 },
    );
  });

  it('reads back what it wrote, with runs of zeros in every place', () => {
    fc.assert(
      fc.property(groups6, (groups) => {
        const text = groups.map((group) => group.toString(16)).join(':');
        const canonical = parseAddress(text)!;
        if (!isIPv6(canonical)) return;
        expect(canonical).toBe(canonicalIPv6(text));
        expect([...addressBytes(canonical)]).toEqual(groups.flatMap((group) => [group >> 8, group & 255]));
      }),
      { numRuns: 2000 },
    );
  });

  it('accepts every IPv4 address of node:net unchanged', () => {
    fc.assert(
      fc.property(fc.ipV4(), (text) => {
        expect(parseAddress(text)).toBe(text);
      }),
    );
  });
});

describe('addressBytes and formatAddress', () => {
  it('are inverse', () => {
    fc.assert(
      fc.property(address, (text) => {
        expect(formatAddress(addressBytes(text))).toBe(text);
        expect(addressBytes(text)).toHaveLength(familyOf(text) === 4 ? 4 : 16);
      }),
    );
  });
  it('refuses other lengths and other text', () => {
    expect(() => formatAddress(new Uint8Array(5))).toThrow(RangeError);
    expect(() => addressBytes('web' as Address)).toThrow(RangeError);
  });
});

describe('parseCidr', () => {
  const rows: [name: string, text: string, canonical: string | null][] = [
    ['IPv4', '10.0.0.0/8', '10.0.0.0/8'],
    ['host bits are zeroed', '10.1.2.3/8', '10.0.0.0/8'],
    ['everything', '1.2.3.4/0', '0.0.0.0/0'],
    ['one address', '1.2.3.4/32', '1.2.3.4/32'],
    ['leading zeros', '010.0.0.0/08', '10.0.0.0/8'],
    ['a prefix too long for IPv4', '10.0.0.0/33', null],
    ['IPv6', '2001:db8::/32', '2001:db8::/32'],
    ['IPv6 host bits', '2001:db8::1/33', '2001:db8::/33'],
    ['IPv6 everything', '::1/0', '::/0'],
    ['a prefix too long for IPv6', '::/129', null],
    ['IPv4-mapped becomes IPv4', '::ffff:10.1.0.0/104', '10.0.0.0/8'],
    ['IPv4-mapped, the whole of it', '::ffff:0:0/96', '0.0.0.0/0'],
    ['IPv4-mapped with a short prefix stays IPv6', '::ffff:10.0.0.0/95', '::fffe:0:0/95'],
    ['no prefix length', '10.0.0.0', null],
    ['an empty prefix length', '10.0.0.0/', null],
    ['two slashes', '10.0.0.0/8/8', null],
    ['a sign', '10.0.0.0/+8', null],
    ['a huge number', '10.0.0.0/99999999999999999999', null],
    ['white space', '10.0.0.0/8 ', null],
  ];
  it.each(rows)('%s: %j', (_name, text, canonical) => {
    expect(parseCidr(text)).toBe(canonical);
  });

  it('is idempotent, and its parts make it again', () => {
    fc.assert(
      fc.property(cidr, ([bytes, bits]) => {
        const canonical = parseCidr(`${formatAddress(bytes)}/${bits}`);
        if (canonical === null) return; // an IPv4-mapped address, now IPv4, with a prefix of IPv6
        expect(parseCidr(canonical)).toBe(canonical);
        const parts = cidrParts(canonical);
        expect(`${formatAddress(parts.bytes)}/${parts.bits}`).toBe(canonical);
        expect(parts.family).toBe(familyOf(canonical));
      }),
    );
  });
});

/** The plain way to say it, in bits. */
function containsByBits(range: Cidr, text: Address): boolean {
  const { bytes, bits } = cidrParts(range);
  const other = addressBytes(text);
  const inBits = (list: Uint8Array) => [...list].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  return bytes.length === other.length && inBits(bytes).slice(0, bits) === inBits(other).slice(0, bits);
}

/** Few distinct bytes, so that ranges do hold each other and addresses. */
const crowded4 = fc.array(fc.constantFrom(0, 1, 128, 255), { minLength: 4, maxLength: 4 });
const crowded6 = fc.array(fc.constantFrom(0, 1, 128, 255), { minLength: 16, maxLength: 16 });
const crowdedAddress = fc.oneof(crowded4, crowded6).map((list) => formatAddress(Uint8Array.from(list)));
const crowdedCidr = fc
  .oneof(
    fc.tuple(crowded4, fc.integer({ min: 0, max: 32 })),
    fc.tuple(crowded6, fc.integer({ min: 0, max: 128 })),
  )
  .map(([list, bits]) => parseCidr(`${formatAddress(Uint8Array.from(list))}/${bits}`)!)
  .filter((range) => range !== null);

describe('cidrContains', () => {
  it('compares the leading bits', () => {
    fc.assert(
      fc.property(crowdedCidr, crowdedAddress, (range, text) => {
        expect(cidrContains(range, text)).toBe(containsByBits(range, text));
      }),
      { numRuns: 2000 },
    );
  });
  it('holds its own first address and nothing of the other family', () => {
    expect(cidrContains('0.0.0.0/0' as Cidr, '::1' as Address)).toBe(false);
    expect(cidrContains('::/0' as Cidr, '10.0.0.1' as Address)).toBe(false);
    expect(cidrContains('10.0.0.0/8' as Cidr, '10.0.0.0' as Address)).toBe(true);
  });
});

describe('mergeCidrs', () => {
  it('keeps the set, drops overlaps, sorts, and does not depend on order', () => {
    fc.assert(
      fc.property(
        fc.array(crowdedCidr, { maxLength: 8 }),
        fc.array(crowdedAddress, { maxLength: 8 }),
        (list, probes) => {
          const merged = mergeCidrs(list);
          for (const probe of probes) {
            const within = (ranges: readonly Cidr[]) =>
              ranges.filter((range) => cidrContains(range, probe)).length;
            expect(within(merged)).toBe(within(list) > 0 ? 1 : 0);
          }
          expect(mergeCidrs([...list].reverse())).toEqual(merged);
          expect(mergeCidrs(merged)).toEqual(merged);
        },
      ),
      { numRuns: 1000 },
    );
  });
});

describe('compareAddresses', () => {
  it('orders by family, then bytes, and the sort key agrees within a family', () => {
    fc.assert(
      fc.property(crowdedAddress, crowdedAddress, (a, b) => {
        const [left, right] = [addressBytes(a), addressBytes(b)];
        const expected = left.length - right.length || Buffer.compare(left, right);
        expect(Math.sign(compareAddresses(a, b))).toBe(Math.sign(expected));
        if (left.length !== right.length) return;
        const [leftKey, rightKey] = [addressSortKey(a), addressSortKey(b)];
        expect(leftKey < rightKey ? -1 : leftKey > rightKey ? 1 : 0).toBe(Math.sign(expected));
      }),
      { numRuns: 1000 },
    );
  });
});

describe('isLoopback', () => {
  it.each([
    ['127.0.0.1', true],
    ['127.255.0.3', true],
    ['128.0.0.1', false],
    ['::1', true],
    ['::2', false],
  ])('%s: %s', (text, expected) => {
    expect(isLoopback(parseAddress(text)!)).toBe(expected);
  });
});
