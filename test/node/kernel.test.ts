import { existsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { findCgroup2, readKernelFacts } from '../../src/node/kernel.ts';

const line = (root: string, at: string, type: string, optional = '') =>
  `31 23 0:27 ${root} ${at} rw,nosuid${optional} - ${type} ${type} rw,nsdelegate`;

describe('findCgroup2', () => {
  it.each([
    ['none', [line('/', '/sys/fs/cgroup', 'tmpfs'), line('/', '/sys/fs/cgroup/cpu', 'cgroup')], null],
    ['unified', [line('/', '/sys/fs/cgroup', 'cgroup2', ' shared:9 master:1')], '/sys/fs/cgroup'],
    [
      'hybrid',
      [line('/', '/sys/fs/cgroup', 'tmpfs'), line('/', '/sys/fs/cgroup/unified', 'cgroup2')],
      '/sys/fs/cgroup/unified',
    ],
    ['escaped', [line('/', '/mnt/a\\040b\\134c', 'cgroup2')], '/mnt/a b\\c'],
    [
      'a part and the whole',
      [line('/', '/whole', 'cgroup2'), line('/kubepods', '/part', 'cgroup2')],
      '/whole',
    ],
    ['only a part', [line('/../..', '/part', 'cgroup2')], '/part'],
    ['rubbish', ['', 'x - y', ' - '], null],
  ])('%s', (_name, lines, expected) => {
    expect(findCgroup2(lines.join('\n'))).toBe(expected);
  });
});

it('reads the facts of this machine', () => {
  const facts = readKernelFacts();
  expect(facts.release).toBe(os.release());
  expect(facts.btf).toBe(existsSync('/sys/kernel/btf/vmlinux'));
  if (facts.cgroup2) expect(existsSync(path.join(facts.cgroup2, 'cgroup.procs'))).toBe(true);
});
