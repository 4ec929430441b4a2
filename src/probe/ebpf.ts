/** What the ebpf mode needs: maps, programs, and places to attach them. */
import type { ProbeRow } from './report.ts';

/** The mode comes with its own trials; until it does there is nothing to try. */
export async function probeEbpf(_netns: string): Promise<ProbeRow[]> {
  return [
    {
      mode: 'ebpf',
      need: 'the programs of this version',
      weight: 'required',
      answer: 'no',
      remedy: 'this version has no ebpf mode',
    },
  ];
}
