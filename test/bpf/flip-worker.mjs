// Sends new connections through a program while the main thread flips the pool: for each, which backend it got and
// which flips were under way. Plain JavaScript, so that a worker thread can run it.
import { createRequire } from 'node:module';
import { parentPort, workerData } from 'node:worker_threads';

const { addon, program, frame, ports, context, shared, backendAt, backendsOf } = workerData;
const native = createRequire(import.meta.url)(addon);
const state = new Int32Array(shared);
const FLIPS = 0;
const STOP = 1;
const PACKETS = 2;
/** Connections that each of the two workers may open before the table of 262,144 gets crowded. */
const ROOM = 80_000;

const wrong = [];
const seen = [0, 0];
let certain = 0;
let dropped = 0;
for (let n = 0; Atomics.load(state, STOP) === 0; n++) {
  // Another client port for each, and another client when they are used up; checksums are not looked at here.
  const port = (n % 60000) + 1024;
  frame[ports] = port >> 8;
  frame[ports + 1] = port & 255;
  frame[ports - 6] = n / 60000;
  const before = Atomics.load(state, FLIPS);
  const { data, verdict } = native.bpfTestRun(program, frame, context, frame.length + 512, 1);
  const after = Atomics.load(state, FLIPS);
  Atomics.add(state, PACKETS, 1);
  if (verdict === 2) {
    // On a fast machine the flips outlast the room for connections, which nobody collects here.
    if (n < ROOM) dropped++;
    continue;
  }
  const set = backendsOf.findIndex((backends) => backends.includes(data[backendAt]));
  if (set < 0) wrong.push(`packet ${n}: a backend of neither set (${data[backendAt]})`);
  else seen[set]++;
  // Between an even number and the next one a flip is under way.
  if (before !== after || before % 2 !== 0) continue;
  certain++;
  if (set !== (before / 2) % 2) wrong.push(`packet ${n}: set ${set} after flip ${before / 2}`);
}
parentPort.postMessage({ wrong: wrong.slice(0, 5), seen, certain, dropped });
