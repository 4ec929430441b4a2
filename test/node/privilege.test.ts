import { describe, expect, it, test } from 'vitest';
import { TriplaneError } from '../../src/model/errors.ts';
import {
  explainErrno,
  parsePrivilege,
  readPrivilege,
  refusalCode,
  requireCapability,
} from '../../src/node/privilege.ts';

const status = (hex: string) => `Name:\tnode\nCapPrm:\tffffffffffffffff\nCapEff:\t${hex}\nCapBnd:\t0\n`;
const INITIAL = '         0          0 4294967295\n';

describe('parsePrivilege', () => {
  it.each([
    [
      'root',
      '000001ffffffffff',
      [
        'CAP_NET_ADMIN',
        'CAP_NET_RAW',
        'CAP_SYS_MODULE',
        'CAP_SYS_ADMIN',
        'CAP_SYS_RESOURCE',
        'CAP_PERFMON',
        'CAP_BPF',
      ],
    ],
    ['nobody', '0000000000000000', []],
    ['one', '0000000000001000', ['CAP_NET_ADMIN']],
    ['bpf only', '0000008000000000', ['CAP_BPF']],
  ])('%s', (_name, hex, names) => {
    expect([...parsePrivilege(status(hex), INITIAL).effective]).toEqual(names);
  });

  it('knows the initial user namespace', () => {
    expect(parsePrivilege(status('0'), INITIAL).initialUserNamespace).toBe(true);
    expect(parsePrivilege(status('0'), '         0       1000          1\n').initialUserNamespace).toBe(
      false,
    );
    expect(parsePrivilege(status('0'), '0 0 65536\n').initialUserNamespace).toBe(false);
    expect(parsePrivilege('', '').effective.size).toBe(0);
  });

  it('reads its own', () => {
    expect(readPrivilege().effective.has('CAP_NET_ADMIN')).toBe(process.getuid?.() === 0);
  });

  it('names the capability that is missing', () => {
    const nobody = parsePrivilege(status('0'), INITIAL);
    expect(() => requireCapability('CAP_NET_ADMIN', 'change the network', nobody)).toThrow(
      expect.objectContaining({ code: 'TP_NO_PRIVILEGE', message: expect.stringContaining('CAP_NET_ADMIN') }),
    );
    requireCapability('CAP_BPF', 'load programs', parsePrivilege(status('0000008000000000'), INITIAL));
  });
});

test.each([
  ['EPERM', 'TP_NO_PRIVILEGE'],
  ['EINVAL', 'TP_NO_FEATURE'],
  ['ENOMEM', 'TP_KERNEL_REFUSED'],
  [undefined, 'TP_NO_FEATURE'],
])('a kernel that answers %s to what a mode cannot do without: %s', (code, expected) => {
  expect(refusalCode(code)).toBe(expected);
});

describe('explainErrno', () => {
  it.each([
    ['EPERM', 'TP_NO_PRIVILEGE', /CAP_NET_ADMIN/],
    ['EACCES', 'TP_NO_PRIVILEGE', /root/],
    ['ENOENT', 'TP_NO_FEATURE', /nf_tables is missing/],
    ['EPROTONOSUPPORT', 'TP_NO_FEATURE', /triplane probe/],
    ['EAFNOSUPPORT', 'TP_NO_FEATURE', /triplane probe/],
    ['ENOBUFS', 'TP_KERNEL_REFUSED', /no room/],
    [undefined, 'TP_KERNEL_REFUSED', /no room/],
  ])('%s', (code, expected, text) => {
    const error = Object.assign(new Error('no room\nat all'), code ? { code } : {});
    const explained = explainErrno(error, 'open nftables', 'the kernel module nf_tables');
    expect(explained).toBeInstanceOf(TriplaneError);
    expect(explained.code).toBe(expected);
    expect(explained.message).toMatch(text);
    expect(explained.message).toMatch(/^cannot open nftables/);
    expect(explained.message).not.toContain('\n');
    expect(explained.cause).toBe(error);
  });

  it('takes what is no Error, and leaves ours alone', () => {
    expect(explainErrno('odd', 'try', 'it').message).toBe('cannot try: odd');
    expect(explainErrno(null, 'try', 'it').code).toBe('TP_KERNEL_REFUSED');
    const ours = new TriplaneError('TP_LOCKED', 'taken');
    expect(explainErrno(ours, 'try', 'it')).toBe(ours);
  });
});
