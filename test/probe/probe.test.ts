/** Probing this very kernel. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { readKernelFacts } from '../../src/node/kernel.ts';
import { readLinks } from '../../src/node/rtnetlink.ts';
import { SWITCH } from '../../src/node/switches.ts';
import { probeForAuto, probeKernel } from '../../src/probe/probe.ts';
import { canRun, type ProbeRow } from '../../src/probe/report.ts';
import { mayChangeNetworks, privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', "needs the machine's root");
const network = skipUnless(mayChangeNetworks(), 'needs root');

afterEach(() => {
  delete process.env[SWITCH];
});

const list = (folder: string) => {
  try {
    return readdirSync(folder).filter((name) => name.includes(`triplane-probe-${process.pid}`));
  } catch {
    return [];
  }
};

/** Everything in which a probe could leave something. */
function traces() {
  const { cgroup2 } = readKernelFacts();
  const mounts = spawnSync('findmnt', ['-rn', '-t', 'bpf', '-o', 'TARGET'], { encoding: 'utf8' }).stdout;
  const filters = spawnSync('tc', ['filter', 'show', 'dev', 'lo', 'ingress'], { encoding: 'utf8' }).stdout;
  return {
    links: readLinks('').map(({ name }) => name),
    pins: list('/sys/fs/bpf'),
    cgroups: cgroup2 === null ? [] : list(cgroup2),
    temporary: list('/tmp'),
    mounts: mounts.split('\n').filter((line) => line.includes('triplane-probe')),
    filters,
  };
}

const answers = (rows: readonly ProbeRow[], answer: ProbeRow['answer']) =>
  rows.filter((row) => row.answer === answer).map(({ mode, need }) => `${mode}: ${need}`);

describe('this kernel', () => {
  root.test('every trial has an answer, every no a remedy, and nothing is left behind', async () => {
    const before = traces();
    const { kernel, rows, auto } = await probeKernel();
    expect(kernel).not.toBe('');
    // A kernel before 6.3 does not tell what its drivers can do.
    expect(answers(rows, 'unknown').filter((row) => !row.includes('in the driver of'))).toEqual([]);
    for (const { answer, remedy } of rows) expect(remedy === '').toBe(answer === 'yes');
    expect(new Set(rows.map(({ mode }) => mode))).toEqual(new Set(['nft', 'ipvs', 'ebpf']));
    expect(new Set(rows.map(({ mode, need }) => `${mode} ${need}`)).size).toBe(rows.length);
    expect(auto.reason).not.toBe('');
    expect(traces()).toEqual(before);
  });

  root.test('a kernel that runs the tests of a mode is found to have what the mode needs', async () => {
    const { rows } = await probeKernel();
    for (const mode of ['nft', 'ebpf'] as const) expect(canRun(rows, mode)).toBe(true);
  });

  network.test('what nft needs is tried wherever a network namespace can be made', async () => {
    const rows = (await probeKernel()).rows.filter(({ mode }) => mode === 'nft');
    expect(answers(rows, 'yes')).toHaveLength(rows.length);
    expect(rows).toHaveLength(3);
  });

  test('auto stops at the first mode that can run', async () => {
    const { rows, auto } = await probeForAuto();
    if (auto.mode === '') return;
    expect(rows.at(-1)!.mode).toBe(auto.mode);
  });
});

root.describe('features that are switched off', () => {
  const CASES: readonly [without: string, noes: readonly string[], able: readonly string[]][] = [
    ['nft', ['nft: nftables with NAT, fib and reject, and libnftables'], ['ebpf']],
    ['numgen', ['nft: a service of both families'], ['ebpf']],
    ['bpf', ['ebpf: BPF'], ['nft']],
    ['tcx', ['ebpf: tcx'], ['nft', 'ebpf']],
    [
      'socket,xdp,ct-lookup',
      ['ebpf: XDP programs', 'ebpf: programs at sockets', 'ebpf: hooks of a cgroup'],
      ['nft', 'ebpf'],
    ],
    ['set-retval', ['ebpf: the helper bpf_set_retval()'], ['nft', 'ebpf']],
  ];
  test.each(CASES)('%s', async (without, noes, able) => {
    process.env[SWITCH] = without;
    const { rows } = await probeKernel();
    expect(answers(rows, 'no')).toEqual(expect.arrayContaining([...noes]));
    expect(['nft', 'ebpf'].filter((mode) => canRun(rows, mode as 'nft'))).toEqual(able);
    for (const { answer, remedy } of rows) if (answer === 'no') expect(remedy).not.toBe('');
  });
});
