/** What the ebpf mode needs: kinds of maps and programs, places to attach them, and its own programs as they are. */
import { kernelHz } from '../dataplane/ebpf/clock.ts';
import { knobsOf, loadPrograms, offerOfConntrack, requireBpf } from '../dataplane/ebpf/kernel.ts';
import { mapEntries, newSeed, type Sizes } from '../dataplane/ebpf/knobs.ts';
import { bpfObjectPath, openBpf } from '../dataplane/ebpf/native.ts';
import { DEFAULT_NAT_PORTS } from '../dataplane/ebpf/options.ts';
import { type Part, partsSwitchedOff } from '../dataplane/ebpf/parts.ts';
import { ebpfNeed, probeFacts, probeKernelParts } from './ebpf-kernel.ts';
import { probePlaces, probeUplinks } from './ebpf-places.ts';
import type { ProbeRow } from './report.ts';
import { attempt, Untried } from './trial.ts';

/** Enough for the verifier, which does not look at sizes. */
const SIZES: Sizes = {
  frontends: 64,
  backends: 64,
  connections: 1024,
  affinities: 64,
  sourceRanges: 64,
  hops: 64,
};

/** Loads the agent's own programs, pinned nowhere. Resolves to the parts that the kernel does not take. */
async function tryPrograms(): Promise<ReadonlyMap<Part, string>> {
  const seed = Buffer.from(newSeed()).toString('hex');
  const spec = {
    path: bpfObjectPath(),
    pinRoot: '',
    maps: mapEntries(SIZES),
    rodata: knobsOf({ sizes: SIZES, natPorts: DEFAULT_NAT_PORTS, seed, hz: kernelHz() }, offerOfConntrack()),
  };
  const object = await openBpf(spec);
  try {
    return await loadPrograms(object, spec);
  } finally {
    object.close();
  }
}

const PART_ROWS = [
  ['xdp', 'our XDP program', 'uplinks are served at tc'],
  ['sockets', 'our programs at sockets', 'sockets are served packet by packet'],
] as const;

async function probePrograms(): Promise<ProbeRow[]> {
  let omitted: ReadonlyMap<Part, string> = new Map();
  const all = await attempt(ebpfNeed('our programs at tc', 'required', 'another kernel'), async () => {
    omitted = await tryPrograms();
  });
  const off = partsSwitchedOff();
  const rows = PART_ROWS.filter(([part]) => !off.includes(part)).map(([part, text, remedy]) =>
    attempt(ebpfNeed(text, 'better', remedy), () => {
      const reason = omitted.get(part);
      if (reason !== undefined) throw new Error(reason);
    }),
  );
  return all.answer === 'yes' ? [all, ...(await Promise.all(rows))] : [all];
}

const allowed = () => attempt(ebpfNeed('BPF', 'required', 'a kernel with CONFIG_BPF_SYSCALL'), requireBpf);

async function probeWith(places: () => Promise<ProbeRow>[]): Promise<ProbeRow[]> {
  const bpf = await allowed();
  const facts = [...probeFacts(), ...(await probeUplinks())];
  // What can be told by looking alone.
  if (bpf.answer !== 'yes') return [bpf, ...(await Promise.all(facts))];
  const parts = await Promise.all([...facts, ...probeKernelParts(), ...places()]);
  return [bpf, ...parts, ...(await probePrograms())];
}

/** @param netns of a namespace in which anything may be attached */
export function probeEbpf(netns: string): Promise<ProbeRow[]> {
  return probeWith(() => probePlaces(netns));
}

/** @param why there is no namespace to try attaching in */
export function probeEbpfWithoutPlace(why: string): Promise<ProbeRow[]> {
  const place = ebpfNeed('a place at tc', 'required', '');
  return probeWith(() => [
    attempt(place, () => {
      throw new Untried(why);
    }),
  ]);
}
