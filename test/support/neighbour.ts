/** Somebody else's BPF programs on a device, at clsact and, where the kernel has it, at tcx; they count packets. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { ATTACH_TCX_INGRESS } from '../../src/dataplane/ebpf/attach-types.ts';
import { type BpfObject, bpfNative, loadBpf } from '../../src/dataplane/ebpf/native.ts';
import { type Mapped, mapArray } from '../../src/dataplane/ebpf/tables.ts';
import { ROOT } from './checkout.ts';
import { HAS_TCX } from './kernel-age.ts';

const PRIORITY = 9;
const INGRESS = 1;

function compile(out: string): void {
  const machine = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as string] ?? process.arch;
  const args = ['-O2', '-g', '-target', 'bpf', '-mcpu=v3', `-I/usr/include/${machine}-linux-gnu`];
  const source = path.join(ROOT, 'test/support/neighbour.c');
  const result = spawnSync(process.env.CLANG ?? 'clang', [...args, '-c', source, '-o', out], {
    encoding: 'utf8',
  });
  if (result.status !== 0) throw new Error(result.stderr);
}

export class Neighbour {
  // Kept: its maps and programs go with it.
  readonly object: BpfObject;
  readonly #seen: Mapped;

  /** Where it stands. */
  readonly places: readonly ('clsact' | 'tcx')[];

  private constructor(object: BpfObject, places: readonly ('clsact' | 'tcx')[]) {
    this.object = object;
    this.places = places;
    this.#seen = mapArray(object.maps().seen!);
  }

  /** Stands at ingress of the device until the device goes. */
  static async attach(ifindex: number, netns: string): Promise<Neighbour> {
    const dir = mkdtempSync(path.join(tmpdir(), 'triplane-neighbour-'));
    try {
      const object = path.join(dir, 'neighbour.o');
      compile(object);
      const rodata = new Uint8Array(4);
      const one = await loadBpf({ path: object, pinRoot: '', maps: {}, without: [], rodata });
      const { on_clsact, on_tcx } = one.programs();
      bpfNative().bpfClsactAttach(on_clsact!, ifindex, INGRESS, PRIORITY, 1, netns);
      if (!HAS_TCX) return new Neighbour(one, ['clsact']);
      bpfNative().bpfLinkDevice(on_tcx!, ifindex, ATTACH_TCX_INGRESS, 0, netns);
      return new Neighbour(one, ['clsact', 'tcx']);
    } finally {
      rmSync(dir, { recursive: true });
    }
  }

  /** Packets seen at clsact and at tcx. */
  saw(): { readonly clsact: number; readonly tcx: number } {
    return { clsact: Number(this.#seen.longs[0]), tcx: Number(this.#seen.longs[1]) };
  }
}
