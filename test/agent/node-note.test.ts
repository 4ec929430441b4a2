/** The annotations of the Node: what they say, when they are written, and that nothing depends on them. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Annotations, annotationsOf, NodeNote } from '../../src/agent/node-note.ts';
import type { ModeStatus } from '../../src/agent/status.ts';

const log = { error: vi.fn(), warn: vi.fn(), info: vi.fn(), debug: vi.fn(), trace: vi.fn() };
const SETTLED = { switching: '', draining: [], failure: '' } as const;
const EBPF: ModeStatus = {
  ...SETTLED,
  mode: 'ebpf',
  requested: 'auto',
  reason: 'the best mode that can run',
  degrees: [
    { feature: 'tc', device: '', got: 'tcx', reason: '' },
    { feature: 'xdp', device: 'eth0', got: 'none', reason: 'no' },
  ],
};
const NFT: ModeStatus = {
  ...SETTLED,
  ...{ mode: 'nft', requested: 'nft', reason: 'asked for by name', degrees: [] },
};

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
  vi.clearAllMocks();
});

/** Answers in turn: null is a success. */
function noteOf(...answers: (object | null)[]) {
  const written: Annotations[] = [];
  const annotate = async (annotations: Annotations) => {
    written.push(annotations);
    const answer = answers.shift() ?? null;
    if (answer) throw Object.assign(new Error('refused'), answer);
  };
  return { note: new NodeNote({ log, annotate }), written };
}
const settle = () => vi.advanceTimersByTimeAsync(0);

describe('annotations of the Node', () => {
  test('say mode, reason and degrees, in bounds', () => {
    expect(annotationsOf(EBPF)).toEqual({
      'status.triplane.dev/proxy-mode': 'ebpf',
      'status.triplane.dev/proxy-mode-reason': 'the best mode that can run',
      'status.triplane.dev/proxy-mode-degrees': 'tc=tcx,xdp/eth0=none',
    });
    const long = annotationsOf({ ...NFT, reason: 'x'.repeat(300_000) });
    expect(Object.values(long).every((value) => value.length <= 1024)).toBe(true);
  });

  test('are written once, and again when they change', async () => {
    const { note, written } = noteOf();
    for (const status of [EBPF, EBPF, NFT, NFT, EBPF]) {
      note.tell(status);
      await settle();
    }
    expect(written.map((one) => one['status.triplane.dev/proxy-mode'])).toEqual(['ebpf', 'nft', 'ebpf']);
  });

  test('of several changes during one write, the last is written', async () => {
    const { note, written } = noteOf();
    for (const status of [EBPF, NFT, EBPF, NFT]) note.tell(status);
    await settle();
    expect(written.map((one) => one['status.triplane.dev/proxy-mode'])).toEqual(['ebpf', 'nft']);
  });

  test('that may not be written are given up, with one line that names the right', async () => {
    const { note, written } = noteOf({ status: 403 });
    note.tell(EBPF);
    await settle();
    note.tell(EBPF);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(written).toHaveLength(1);
    expect(log.info.mock.calls).toEqual([[{}, expect.stringContaining('patch nodes')]]);
  });

  test('that could not be written are written later, with what holds then', async () => {
    const { note, written } = noteOf({ status: 404 }, { code: 'ECONNREFUSED' });
    note.tell(EBPF);
    await settle();
    note.tell(NFT);
    await vi.advanceTimersByTimeAsync(30_000);
    expect(written).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(written.map((one) => one['status.triplane.dev/proxy-mode'])).toEqual(['ebpf', 'nft', 'nft']);
    expect(log.error).not.toHaveBeenCalled();
  });

  test('are not written any more once closed', async () => {
    const { note, written } = noteOf({ status: 500 });
    note.tell(EBPF);
    await settle();
    note.close();
    await vi.advanceTimersByTimeAsync(3_600_000);
    note.tell(NFT);
    expect(written).toHaveLength(1);
  });
});
