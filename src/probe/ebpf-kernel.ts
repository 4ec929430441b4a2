/** What the ebpf mode needs of the kernel itself: types, kinds of maps, room, kinds of programs, pins, helpers. */
import { mkdtempSync, rmdirSync, unlinkSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ABI, LAYOUTS } from '../dataplane/ebpf/abi.ts';
import { SOCK_PROGRAMS } from '../dataplane/ebpf/attach-types.ts';
import { type Helper, hasHelper, requireBpf } from '../dataplane/ebpf/kernel.ts';
import { DEFAULT_SIZES, mapEntries } from '../dataplane/ebpf/knobs.ts';
import { bpfNative, kernelOffersConntrack } from '../dataplane/ebpf/native.ts';
import { lifeNative } from '../dataplane/ebpf/native-life.ts';
import { prepareRoot, removeRoot } from '../dataplane/ebpf/pins.ts';
import { readKernelFacts } from '../node/kernel.ts';
import { probeNative } from './native.ts';
import type { ProbeRow } from './report.ts';
import { attempt, type Need, orUntried } from './trial.ts';

/** enum bpf_map_type and flags of linux/bpf.h. */
const MAPS = { hash: 1, array: 2, progArray: 3, perCpuArray: 6, lruHash: 9, prefixTrie: 11 } as const;
const SYSTEM_BPFFS = '/sys/fs/bpf';
const NO_PREALLOC = 1;
const MMAPABLE = 1 << 10;
/** enum bpf_prog_type. */
export const PROGRAMS = { tc: 3, xdp: 6, socket: 18 } as const;

export function ebpfNeed(
  text: string,
  weight: Need['weight'],
  remedy: string,
  ...features: NonNullable<Need['features']>
): Need {
  return { mode: 'ebpf', need: text, weight, remedy, features: ['bpf', ...features] };
}

/** A program that lets everything pass, for the time of `work`. */
export function withProgram<T>(type: number, attachType: number, work: (program: number) => T): T {
  const program = probeNative().bpfTryProgram(type, attachType);
  try {
    return work(program);
  } finally {
    bpfNative().bpfClose(program);
  }
}

function tryMaps(): void {
  const { bpfTryMap } = probeNative();
  bpfTryMap(MAPS.hash, 4, 8, 16, 0);
  bpfTryMap(MAPS.hash, 4, 8, 16, NO_PREALLOC);
  bpfTryMap(MAPS.lruHash, 16, 16, 16, 0);
  bpfTryMap(MAPS.perCpuArray, 4, 8, 16, 0);
  bpfTryMap(MAPS.progArray, 4, 4, 16, 0);
  bpfTryMap(MAPS.prefixTrie, 24, 4, 16, NO_PREALLOC);
}

/** The largest table at its standard size. A process that may make maps, and not this one, lacks room. */
function tryRoom(): void {
  const sets = mapEntries(DEFAULT_SIZES).tp_conns!;
  const setBytes = ABI.CONN_WAYS * LAYOUTS.tp_conn.bytes;
  try {
    probeNative().bpfTryMap(MAPS.array, 4, setBytes, sets, MMAPABLE);
  } catch (error) {
    throw new Error(`${(sets * setBytes) / 2 ** 20} MiB: ${(error as Error).message}`, { cause: error });
  }
}

function trySocketPrograms(): void {
  const refused: string[] = [];
  for (const [name, attachType] of Object.entries(SOCK_PROGRAMS)) {
    try {
      withProgram(PROGRAMS.socket, attachType, () => {});
    } catch (error) {
      if ((error as { code?: string }).code === 'EPERM') throw error;
      refused.push(name.slice('tp_'.length));
    }
  }
  if (refused.length > 0) throw new Error(`not here: ${refused.join(' ')}`);
}

/** Pins something where a BPF file system is, or in one that is mounted for the moment. */
function tryPins(): void {
  const mounted = lifeNative().bpfIsBpffs(SYSTEM_BPFFS);
  const folder = mounted
    ? SYSTEM_BPFFS
    : orUntried(() => mkdtempSync(path.join(os.tmpdir(), 'triplane-probe-')));
  const root = path.join(folder, `triplane-probe-${process.pid}`);
  const pin = path.join(root, 'probe');
  try {
    prepareRoot(root);
    withProgram(PROGRAMS.tc, 0, (program) => bpfNative().bpfPin(program, pin));
    unlinkSync(pin);
  } finally {
    removeRoot(root);
    if (!mounted) rmdirSync(folder);
  }
}

const HELPERS: readonly (readonly [Helper, string, string])[] = [
  [
    'redirect-neigh',
    'bpf_redirect_neigh',
    'replies find their next hop by the route alone (Linux 5.10 has it)',
  ],
  [
    'netns-cookie',
    'bpf_get_netns_cookie',
    'the sockets of pods and of the node are not told apart (Linux 5.8 has it)',
  ],
  [
    'set-retval',
    'bpf_set_retval',
    'a refused connect() fails with EPERM in place of ECONNREFUSED (Linux 5.18 has it)',
  ],
];

const helperRows = () =>
  HELPERS.map(([helper, name, remedy]) =>
    attempt(ebpfNeed(`the helper ${name}()`, 'better', remedy, helper), () => {
      // Asking does not tell a refusal from a lack.
      requireBpf();
      if (!hasHelper(helper)) throw new Error('not here');
    }),
  );

/** What may be asked without privilege. */
export function probeFacts(): Promise<ProbeRow>[] {
  const { btf, cgroup2 } = readKernelFacts();
  return [
    attempt(ebpfNeed('kernel types (BTF)', 'required', 'a kernel with CONFIG_DEBUG_INFO_BTF'), () => {
      if (!btf) throw new Error('/sys/kernel/btf/vmlinux is not there');
    }),
    attempt(
      ebpfNeed('cgroup v2', 'better', 'mount it; sockets are served packet by packet until then', 'socket'),
      () => {
        if (cgroup2 === null) throw new Error('it is not mounted');
      },
    ),
    attempt(
      ebpfNeed(
        'asking connection tracking',
        'better',
        'load nf_conntrack (Linux 6.0); connections of another mode are not told apart after a switch',
        'ct-lookup',
      ),
      () => {
        if (!kernelOffersConntrack()) throw new Error('bpf_skb_ct_lookup() is not there');
      },
    ),
  ];
}

export function probeKernelParts(): Promise<ProbeRow>[] {
  const tc = () => withProgram(PROGRAMS.tc, 0, () => {});
  const xdp = () => withProgram(PROGRAMS.xdp, 0, () => {});
  return [
    attempt(
      ebpfNeed('maps shared with the agent', 'required', 'a kernel with mmapable arrays (Linux 5.5)'),
      () => probeNative().bpfTryMap(MAPS.array, 4, 64, 64, MMAPABLE),
    ),
    attempt(ebpfNeed('maps of the other kinds', 'required', 'a kernel with CONFIG_BPF_SYSCALL'), tryMaps),
    attempt(
      ebpfNeed('room for the tables', 'required', 'more memory, or a higher limit (LimitMEMLOCK=infinity)'),
      tryRoom,
    ),
    attempt(ebpfNeed('programs at tc', 'required', 'a kernel with CONFIG_NET_CLS_BPF'), tc),
    attempt(ebpfNeed('XDP programs', 'better', 'uplinks are served at tc', 'xdp'), xdp),
    attempt(
      ebpfNeed('programs at sockets', 'better', 'sockets are served packet by packet', 'socket'),
      trySocketPrograms,
    ),
    attempt(ebpfNeed('pins in a BPF file system', 'required', 'mount one at /sys/fs/bpf'), tryPins),
    ...helperRows(),
  ];
}
