/** Probing this very kernel. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import os from 'node:os';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import { readKernelFacts } from '../../src/node/kernel.ts';
import { readLinks } from '../../src/node/rtnetlink.ts';
import { SWITCH } from '../../src/node/switches.ts';
import { probeForAuto, probeKernel, probeMode } from '../../src/probe/probe.ts';
import { canRun, type ProbeReport, type ProbeRow } from '../../src/probe/report.ts';
import { ipvs } from '../support/ipvs.ts';
import { TAKES_PROGRAMS } from '../support/kernel-age.ts';
import { mayChangeNetworks, privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', "needs the machine's root");
const network = skipUnless(mayChangeNetworks(), 'needs root');

function ours(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.includes(`triplane-probe-${process.pid}`));
  } catch {
    return [];
  }
}

function said(command: string, ...args: string[]): string {
  return spawnSync(command, args, { encoding: 'utf8' }).stdout ?? '';
}

/** Everything in which a probe could leave something. */
function traces() {
  const { cgroup2 } = readKernelFacts();
  return {
    links: readLinks('').map(({ name }) => name),
    pins: ours('/sys/fs/bpf'),
    cgroups: cgroup2 === null ? [] : ours(cgroup2),
    temporary: readdirSync(os.tmpdir()).filter((name) => name.startsWith('triplane-probe-')),
    mounts: said('findmnt', '-rn', '-t', 'bpf', '-o', 'TARGET').match(/.*triplane-probe.*/g),
    filters: said('tc', 'filter', 'show', 'dev', 'lo', 'ingress'),
    children: said('ps', '--ppid', String(process.pid), '-o', 'args=').match(/.*\b(unshare|cat)\b.*/g),
  };
}

const answers = (rows: readonly ProbeRow[], answer: ProbeRow['answer']) =>
  rows.filter((row) => row.answer === answer).map(({ mode, need }) => `${mode}: ${need}`);

describe('this kernel', () => {
  let before: ReturnType<typeof traces>;
  let report: ProbeReport;
  const rowsOf = (mode: Mode) => report.rows.filter((row) => row.mode === mode);
  beforeAll(async () => {
    before = traces();
    report = await probeKernel();
  });

  test('every mode has rows, every row but a yes says what to do, and no two are the same', () => {
    const { kernel, rows, auto } = report;
    expect(kernel).not.toBe('');
    expect(new Set(rows.map(({ mode }) => mode))).toEqual(new Set(['nft', 'ipvs', 'ebpf']));
    for (const { answer, remedy } of rows) expect(remedy === '').toBe(answer === 'yes');
    expect(new Set(rows.map(({ mode, need }) => `${mode} ${need}`)).size).toBe(rows.length);
    expect(auto.reason).not.toBe('');
  });

  test('nothing is left behind', () => {
    expect(traces()).toEqual(before);
  });

  root.test('for root nothing stays untried', () => {
    // A kernel before 6.3 does not tell what its drivers can do.
    expect(answers(report.rows, 'unknown').filter((row) => !row.includes('in the driver of'))).toEqual([]);
  });

  root.test('it has what nft and ebpf need', () => {
    expect(canRun(rowsOf('nft'), 'nft')).toBe(true);
    expect(canRun(rowsOf('ebpf'), 'ebpf')).toBe(TAKES_PROGRAMS);
  });

  network.test('all that nft needs is tried wherever a network namespace can be made', () => {
    expect(answers(rowsOf('nft'), 'yes')).toHaveLength(3);
  });

  ipvs.test('a kernel with IPVS and its modules has all that ipvs needs', () => {
    expect(answers(rowsOf('ipvs'), 'yes')).toHaveLength(5);
  });

  test('auto stops at the first mode that can run', async () => {
    const { rows, auto } = await probeForAuto();
    if (auto.mode !== '') expect(rows.at(-1)!.mode).toBe(auto.mode);
  });
});

root.describe('features that are switched off', () => {
  afterEach(() => {
    delete process.env[SWITCH];
  });

  const CASES: readonly [without: string, mode: Mode, able: boolean, noes: readonly string[]][] = [
    ['nft', 'nft', false, ['nft: nftables with NAT, fib and reject, and libnftables']],
    ['numgen', 'nft', false, ['nft: a service of both families']],
    ['bpf', 'ebpf', false, ['ebpf: BPF']],
    ['ipvs', 'ipvs', false, ['ipvs: IPVS over generic netlink']],
    [
      'tcx,socket,xdp,ct-lookup,set-retval',
      'ebpf',
      true,
      [
        'ebpf: tcx',
        'ebpf: XDP programs',
        'ebpf: programs at sockets',
        'ebpf: hooks of a cgroup',
        'ebpf: asking connection tracking',
        'ebpf: the helper bpf_set_retval()',
      ],
    ],
  ];
  test.each(CASES)('%s', async (without, mode, able, noes) => {
    process.env[SWITCH] = without;
    const rows = await probeMode(mode);
    expect(answers(rows, 'no')).toEqual(expect.arrayContaining([...noes]));
    expect(canRun(rows, mode)).toBe(able);
    for (const { answer, remedy } of rows) if (answer === 'no') expect(remedy).toMatch(/TRIPLANE_WITHOUT=/);
  });
});
