/** What the stores rely on: words of a mapped array change as a whole, also for another thread. */
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { packageRoot } from '../../src/node/native.ts';
import { type Bench, openBench } from '../support/ebpf-tables.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const ROUNDS = 2_000_000;

/** Maps the same memory anew and reads word 0 until word 1 says that it is over. */
const READER = `
const { workerData, parentPort } = require('node:worker_threads');
const native = require(workerData.addon);
const longs = new BigUint64Array(native.bpfMapMmap(workerData.fd, 16));
const seen = new Set();
let reads = 0;
parentPort.postMessage('ready');
while (longs[1] === 0n) { seen.add(longs[0]); reads++; }
parentPort.postMessage({ seen: [...seen], reads });
`;

root.describe('stores into mapped arrays', () => {
  let bench: Bench;
  beforeAll(async () => {
    bench = await openBench();
  });
  afterAll(() => bench?.close());

  test('eight bytes are never seen torn', async () => {
    const { longs } = bench.maps.index;
    const A = 0x1111_1111_1111_1111n;
    const B = 0x2222_2222_2222_2222n;
    longs[0] = A;
    const worker = new Worker(READER, {
      eval: true,
      workerData: {
        addon: `${packageRoot()}/build/Release/triplane.node`,
        fd: bench.object.maps().tp_index!.fd,
      },
    });
    const messages: unknown[] = [];
    let wake: () => void = () => {};
    worker.on('message', (message) => {
      messages.push(message);
      wake();
    });
    const message = async (n: number) => {
      while (messages.length < n) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      return messages[n - 1];
    };
    await message(1);
    for (let i = 0; i < ROUNDS; i++) Atomics.store(longs, 0, i % 2 ? A : B);
    Atomics.store(longs, 1, 1n);
    const { seen, reads } = (await message(2)) as { seen: bigint[]; reads: number };
    expect(reads).toBeGreaterThan(1000);
    expect(seen.every((word) => word === A || word === B)).toBe(true);
    await worker.terminate();
  });
});
