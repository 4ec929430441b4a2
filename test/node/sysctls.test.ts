import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  applyConntrackSettings,
  type ConntrackSettings,
  conntrackMax,
  forwardingWarnings,
  KERNEL_ROOTS,
} from '../../src/node/sysctls.ts';
import { canMakeNamespaces, makeNamespace } from './support/namespace.ts';

const DEFAULTS: ConntrackSettings = {
  maxPerCore: 32768,
  min: 131072,
  tcpEstablishedMs: 86_400_000,
  tcpCloseWaitMs: 3_600_000,
  tcpBeLiberal: false,
  udpMs: 0,
  udpStreamMs: 0,
};
const NOTHING: ConntrackSettings = { ...DEFAULTS, maxPerCore: 0, tcpEstablishedMs: 0, tcpCloseWaitMs: 0 };

describe('conntrackMax', () => {
  it.each([
    [0, 131072, 8, 0],
    [32768, 131072, 1, 131072],
    [32768, 131072, 4, 131072],
    [32768, 131072, 5, 163840],
    [32768, 0, 2, 65536],
    [32768, 131072, 32, 1048576],
    [32768, 131072, 64, 1048576],
    [32768, 2000000, 64, 1048576],
    [1, 2000000, 2, 2000000],
  ])('%d a core, %d at least, %d cores: %d', (maxPerCore, min, cores, expected) => {
    expect(conntrackMax({ maxPerCore, min }, cores)).toBe(expected);
  });
});

describe('applyConntrackSettings', () => {
  let dir: string;
  const roots = () => ({ proc: path.join(dir, 'proc'), sys: path.join(dir, 'sys') });
  const conntrack = (name: string) => path.join(dir, `proc/net/netfilter/nf_conntrack_${name}`);
  const hashsize = () => path.join(dir, 'sys/module/nf_conntrack/parameters/hashsize');
  const read = (file: string) => readFileSync(file, 'utf8');

  beforeEach(() => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'tpsysctl-'));
    mkdirSync(path.join(dir, 'proc/net/netfilter'), { recursive: true });
    mkdirSync(path.join(dir, 'proc/net/ipv4/conf/all'), { recursive: true });
    mkdirSync(path.join(dir, 'proc/net/ipv6/conf/all'), { recursive: true });
    mkdirSync(path.dirname(hashsize()), { recursive: true });
    const values = {
      max: 65536,
      tcp_timeout_established: 432000,
      tcp_timeout_close_wait: 60,
      tcp_be_liberal: 0,
      udp_timeout: 30,
      udp_timeout_stream: 120,
    };
    for (const [name, value] of Object.entries(values)) writeFileSync(conntrack(name), `${value}\n`);
    writeFileSync(hashsize(), '16384\n');
    writeFileSync(path.join(dir, 'proc/net/ipv4/ip_forward'), '0\n');
    writeFileSync(path.join(dir, 'proc/net/ipv6/conf/all/forwarding'), '1\n');
    writeFileSync(path.join(dir, 'proc/net/ipv4/conf/all/route_localnet'), '0\n');
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  it('sets what kube-proxy sets by default, once', () => {
    const report = applyConntrackSettings(DEFAULTS, roots(), 2);
    expect(report.warnings).toEqual([]);
    expect(report.changed).toEqual([
      'net.netfilter.nf_conntrack_max: 65536 -> 131072',
      'nf_conntrack hashsize: 16384 -> 32768',
      'net.netfilter.nf_conntrack_tcp_timeout_established: 432000 -> 86400',
      'net.netfilter.nf_conntrack_tcp_timeout_close_wait: 60 -> 3600',
    ]);
    expect(read(conntrack('max'))).toBe('131072');
    expect(read(hashsize())).toBe('32768');
    expect(applyConntrackSettings(DEFAULTS, roots(), 2)).toMatchObject({ changed: [], warnings: [] });
    expect(read(path.join(dir, 'proc/net/ipv4/conf/all/route_localnet'))).toBe('0\n');
  });

  it('follows a changed configuration', () => {
    applyConntrackSettings(DEFAULTS, roots(), 2);
    const next = {
      ...DEFAULTS,
      tcpBeLiberal: true,
      udpMs: 15_900,
      udpStreamMs: 60_000,
      maxPerCore: 16384,
      min: 0,
    };
    expect(applyConntrackSettings(next, roots(), 2).changed).toEqual([
      'net.netfilter.nf_conntrack_max: 131072 -> 32768',
      'net.netfilter.nf_conntrack_tcp_be_liberal: 0 -> 1',
      'net.netfilter.nf_conntrack_udp_timeout: 30 -> 15',
      'net.netfilter.nf_conntrack_udp_timeout_stream: 120 -> 60',
    ]);
    expect(read(hashsize())).toBe('32768');
    expect(applyConntrackSettings(NOTHING, roots(), 2)).toMatchObject({ changed: [], warnings: [] });
  });

  it('warns of what cannot be written, and sets the rest', () => {
    rmSync(hashsize());
    chmodSync(path.dirname(hashsize()), 0o500);
    rmSync(conntrack('max'));
    mkdirSync(conntrack('max'));
    rmSync(conntrack('udp_timeout'));
    mkdirSync(conntrack('udp_timeout'));
    const report = applyConntrackSettings({ ...DEFAULTS, udpMs: 10_000 }, roots(), 2);
    expect(report.changed).toContain('net.netfilter.nf_conntrack_tcp_timeout_close_wait: 60 -> 3600');
    expect(report.warnings).toHaveLength(process.getuid?.() === 0 ? 2 : 3);
    expect(report.warnings[0]).toMatch(
      /^net\.netfilter\.nf_conntrack_max stays unknown, wanted 131072: cannot write .*: EISDIR$/,
    );
  });

  it('says when the kernel does not forward', () => {
    expect(forwardingWarnings([4, 6], roots())).toEqual([
      expect.stringMatching(/^net\.ipv4\.ip_forward is 0: /),
    ]);
    expect(forwardingWarnings([6], roots())).toEqual([]);
    rmSync(path.join(dir, 'proc/net/ipv4/ip_forward'));
    expect(forwardingWarnings([4], roots())).toEqual([]);
  });
});

describe.skipIf(!canMakeNamespaces())('in a network namespace', () => {
  it('sets the values of that namespace; what belongs to the whole machine is at most a warning', async () => {
    const ns = makeNamespace('tpsysctl');
    try {
      // Never the real /sys: the hash table is the machine's.
      const roots = { proc: KERNEL_ROOTS.proc, sys: path.join(os.tmpdir(), `tpsysctl-none-${process.pid}`) };
      const settings = {
        ...DEFAULTS,
        maxPerCore: 0,
        tcpEstablishedMs: 111_000,
        tcpBeLiberal: true,
        udpMs: 22_000,
      };
      const report = await ns.inside(() => applyConntrackSettings(settings, roots, 2));
      expect(report.warnings).toEqual([]);
      expect(report.changed).toHaveLength(4);
      const get = (name: string) => ns.run('sysctl', ['-n', `net.netfilter.nf_conntrack_${name}`]).trim();
      expect([get('tcp_timeout_established'), get('tcp_be_liberal'), get('udp_timeout')]).toEqual([
        '111',
        '1',
        '22',
      ]);
      expect(readFileSync('/proc/sys/net/netfilter/nf_conntrack_udp_timeout', 'utf8').trim()).not.toBe('22');
      expect(await ns.inside(() => forwardingWarnings([4, 6]))).toHaveLength(2);
      ns.run('sysctl', ['-q', '-w', 'net.ipv4.ip_forward=1']);
      expect(await ns.inside(() => forwardingWarnings([4]))).toEqual([]);
    } finally {
      ns.remove();
    }
  });
});
