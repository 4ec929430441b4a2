/** What the commands do with the ebpf mode: read it back, and remove it. */
import process from 'node:process';
import { cleanupEbpf } from '../dataplane/ebpf/cleanup.ts';
import { readConnections, readEbpf } from '../dataplane/ebpf/readback.ts';
import type { KernelReader } from './machinery.ts';

/** Where the agent pins by default (--bpf-root); another place is told by the environment. */
export const BPF_ROOT = process.env.TRIPLANE_BPF_ROOT ?? '/sys/fs/bpf/triplane';

export const EBPF_READER: KernelReader = {
  async read() {
    return readEbpf(BPF_ROOT);
  },
  async connections() {
    return readConnections(BPF_ROOT);
  },
};

export async function cleanEbpf(): Promise<readonly string[]> {
  return cleanupEbpf(BPF_ROOT);
}
