/**
 * The conformance table through the ebpf mode, twice: with clients whose sockets are translated, and with none, so
 * that every packet goes by tc.
 */
import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { cleanupEbpf } from '../../src/dataplane/ebpf/cleanup.ts';
import { EbpfDataplane } from '../../src/dataplane/ebpf/ebpf-dataplane.ts';
import type { SocketLb } from '../../src/dataplane/ebpf/node-settings.ts';
import { cgroupMount } from '../../src/lab/cgroups.ts';
import { loadNative } from '../../src/node/native.ts';
import { SMALL } from '../support/bpf-world.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { testConformance } from './table.ts';

const gate = skipUnless(privilege() === 'root', 'needs root');
const ROOT = `/sys/fs/bpf/tpconf${process.pid}`;
const cgroup = path.join(cgroupMount() ?? '', `triplane-conf${process.pid}`);

/** The dataplane works where its thread is. */
const enter = (file: string) => (loadNative() as { netnsEnter(path: string): void }).netnsEnter(file);

function test(socketLb: SocketLb): void {
  let home = -1;
  testConformance({
    mode: 'ebpf',
    way: socketLb === 'off' ? 'tc alone' : 'sockets and tc',
    gate,
    cgroup,
    open(netns) {
      home = openSync('/proc/self/ns/net', 'r');
      enter(netns);
      return new EbpfDataplane({ root: ROOT, cgroup, socketLb, sizes: SMALL });
    },
    close() {
      cleanupEbpf(ROOT);
      enter(`/proc/self/fd/${home}`);
      closeSync(home);
    },
  });
}

test('all');
test('off');
