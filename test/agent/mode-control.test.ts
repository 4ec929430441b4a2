/** Who says which mode it is to be, and who hears of it. */
import { expect, test } from 'vitest';
import type { Handover } from '../../src/agent/handover.ts';
import { ModeControl } from '../../src/agent/mode-control.ts';
import type { Mode } from '../../src/dataplane/dataplane.ts';

const quiet = () => {};
const log = { error: quiet, warn: quiet, info: quiet, debug: quiet, trace: quiet };

function control(refused: readonly Mode[] = []) {
  const told: string[] = [];
  let mode: Mode = 'nft';
  const handover = {
    get mode() {
      return mode;
    },
    settled: async () => {},
    switchTo: async (to: Mode) => {
      if (refused.includes(to)) throw new Error('no');
      const from = mode;
      mode = to;
      return { from, to, draining: 0, durationMs: 1 };
    },
  } as unknown as Handover;
  const onSettled = () => told.push(`${mode}: ${made.reason}`);
  const made: ModeControl = new ModeControl({ handover, log, onSettled }, 'nft', 'asked for by name');
  return { made, told };
}

// The Node's annotations, which kubectl shows, said the mode before until the next full state.
test('after a switch, the mode is told with its new reason', async () => {
  const { made, told } = control();
  await made.ask('ebpf');
  expect(told).toEqual(['ebpf: asked for by triplane switch']);
  made.annotate('nft');
  await expect.poll(() => told.slice(1)).toEqual(['nft: asked for by the annotation of this Node']);
});

test('a switch that fails changes neither, and nobody is told', async () => {
  const { made, told } = control(['ipvs']);
  await expect(made.ask('ipvs')).rejects.toThrow('no');
  expect(made.failure).toContain('ipvs');
  expect(told).toEqual([]);
});

test('an annotation that names no mode changes nothing', async () => {
  const { made, told } = control();
  made.annotate('iptables');
  await made.close();
  expect(made.requested).toBe('nft');
  expect(told).toEqual([]);
});
