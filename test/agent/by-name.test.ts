/** A mode that is asked for by name and cannot run ends the agent with what it lacks: it never becomes another one. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { hasIpvs } from '../support/ipvs.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { buildProgram, PROGRAM } from './support/node.ts';

const root = skipUnless(privilege() === 'root', 'needs root');

root.describe('a mode asked for by name', () => {
  let folder: string;
  beforeAll(() => {
    buildProgram();
    folder = mkdtempSync(path.join(os.tmpdir(), `triplane-by-name-${process.pid}-`));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** In a network namespace of its own, to its end. */
  function run(mode: string, without: string) {
    const flags = ['--proxy-mode', mode, '--manifests', folder, '--admin-socket', path.join(folder, 's')];
    const pins = ['--bpf-root', `/sys/fs/bpf/triplane-by-name-${process.pid}`];
    return spawnSync('unshare', ['--net', '--', ...PROGRAM, 'run', ...flags, ...pins], {
      encoding: 'utf8',
      env: { ...process.env, TRIPLANE_WITHOUT: without },
      timeout: 60_000,
    });
  }

  const others = (...modes: string[]) => [...modes, ...(hasIpvs() ? ['ipvs'] : [])];
  const CASES: readonly [mode: string, without: string, lacks: RegExp, able: readonly string[]][] = [
    ['nft', 'nft,bpf', /nftables with NAT, fib and reject, and libnftables \(switched off by/, []],
    [
      'nft',
      'numgen',
      /a service of both families \(switched off by TRIPLANE_WITHOUT=numgen\)/,
      others('ebpf'),
    ],
    ['ebpf', 'bpf', /BPF \(switched off by TRIPLANE_WITHOUT=bpf\)/, others('nft')],
    ['ipvs', 'ipvs', /IPVS over generic netlink \(/, ['nft', 'ebpf']],
  ];
  test.each(CASES)('%s without %s', (mode, without, lacks, able) => {
    const { status, stderr } = run(mode, without);
    expect(status).toBe(1);
    const last = stderr.trim().split('\n').at(-1)!;
    expect(last).toMatch(new RegExp(`^triplane: TP_NO_FEATURE: mode ${mode} cannot run: it lacks `));
    expect(last).toMatch(lacks);
    const named = /modes that can: ([a-z, ]+)\./.exec(last)![1]!;
    expect(
      named
        .split(', ')
        .filter((one) => one !== 'none')
        .sort(),
    ).toEqual([...able].sort());
  });

  test('auto without any mode says what each one lacks', () => {
    const { status, stderr } = run('auto', 'nft,bpf');
    expect(status).toBe(1);
    const last = stderr.trim().split('\n').at(-1)!;
    for (const mode of ['nft', 'ipvs', 'ebpf']) expect(last).toContain(`${mode} lacks `);
  });

  test.each([
    [
      'manifests that are not there',
      ['--proxy-mode', 'nft', '--manifests', '/nowhere/at/all'],
      '',
      'TP_BAD_MANIFEST',
    ],
    [
      'an admin socket where a file is',
      ['--proxy-mode', 'nft', '--manifests', os.tmpdir(), '--admin-socket', '/etc/hostname/s'],
      '',
      'TP_BAD_FLAG: --admin-socket: the folder /etc/hostname cannot be made: ',
    ],
    [
      'a kubeconfig that is not there',
      ['--proxy-mode', 'nft', '--kubeconfig', '/nowhere'],
      '',
      'TP_BAD_CONFIG',
    ],
    ['a mode that cannot run', ['--proxy-mode', 'nft', '--manifests', os.tmpdir()], 'nft', 'TP_NO_FEATURE'],
  ] as const)(
    '%s: it ends, and leaves the settings of the kernel as they were',
    (_what, flags, without, code) => {
      // A time-out that no default of ours is, in a network namespace that was made for this.
      const setting = '/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established';
      const script = `echo 4321 > ${setting}; "$@"; echo "ended with $?"; cat ${setting}`;
      const command = [
        'sh',
        '-c',
        script,
        'sh',
        ...PROGRAM,
        ...['run', '--admin-socket', path.join(folder, 's')],
        ...flags,
      ];
      const { stdout, stderr } = spawnSync('unshare', ['--net', '--', ...command], {
        encoding: 'utf8',
        env: { ...process.env, TRIPLANE_WITHOUT: without },
        timeout: 60_000,
      });
      expect(stderr.trim().split('\n').at(-1)).toContain(code);
      expect(stdout).toMatch(/ended with [12]\n4321\n$/);
    },
  );

  test('a switch that names no feature ends the command', () => {
    const { status, stderr } = run('nft', 'colour');
    expect(status).toBe(2);
    expect(stderr).toMatch(/TP_BAD_FLAG: TRIPLANE_WITHOUT: no feature is called colour/);
  });
});
