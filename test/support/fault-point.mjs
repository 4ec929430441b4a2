/**
 * Loaded into a program before its own code (`node --import`): ends the process between two of its steps, where a test
 * wants it, without the program knowing anything about it. A step is a line of its log, a call of the native addon, or a
 * store into a map that the kernel shares.
 * What is wanted stands in TRIPLANE_TEST_FAULT (fault-point.ts).
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import process from 'node:process';
import timers from 'node:timers/promises';

const {
  armed = [],
  log,
  call,
  count = 1,
  when = 'after',
  tally,
  timers: hurry,
} = JSON.parse(process.env.TRIPLANE_TEST_FAULT ?? '{}');
const STDERR = 2;

let awaited = [...armed];
let left = count;
let calls = 0;

function met() {
  calls++;
  // SIGKILL, to itself: it does not come back from this call.
  if (awaited.length === 0 && --left === 0) process.kill(process.pid, 'SIGKILL');
}

const { writeSync } = fs;
fs.writeSync = (fd, data, ...rest) => {
  const written = writeSync(fd, data, ...rest);
  if (fd !== STDERR) return written;
  const text = String(data);
  if (log !== undefined && text.includes(log)) met();
  if (tally !== undefined && text.includes(tally.log)) fs.writeFileSync(tally.file, String(calls));
  if (awaited.length > 0 && text.includes(awaited[0])) awaited = awaited.slice(1);
  return written;
};

/** `when`: before the call, when it has been made (what it does in the background is under way), or at its end. */
function watched(work) {
  return function (...args) {
    if (when === 'before') met();
    const result = work.apply(this, args);
    if (when === 'made') met();
    if (when === 'after') {
      if (typeof result?.then === 'function') return result.finally(met);
      met();
    }
    return result;
  };
}

/** `NftSocket.commit` or `bpfMapUpdate`. */
function watch(addon, name) {
  const [owner, method] = name.split('.');
  if (method === undefined) addon[owner] = watched(addon[owner]);
  else {
    const Original = addon[owner];
    addon[owner] = class extends Original {};
    // The addon's own prototype cannot be written.
    Object.defineProperty(addon[owner].prototype, method, { value: watched(Original.prototype[method]) });
  }
}

/** Every function and every method that the addon has. */
function watchAll(addon) {
  for (const [name, value] of Object.entries(addon)) {
    if (typeof value !== 'function') continue;
    const methods = Object.getOwnPropertyNames(value.prototype ?? {}).filter((one) => one !== 'constructor');
    for (const method of methods) watch(addon, `${name}.${method}`);
    if (methods.length === 0) watch(addon, name);
  }
}

if (call === 'Atomics.store') Atomics.store = watched(Atomics.store);
else if (call !== undefined) {
  const { dlopen } = process;
  process.dlopen = (module, ...rest) => {
    dlopen.call(process, module, ...rest);
    if (!('lockTake' in module.exports)) return;
    if (call === '*') watchAll(module.exports);
    else watch(module.exports, call);
  };
}

if (hurry !== undefined) {
  const { longerThanMs, times } = hurry;
  const shorter = (ms) => (ms > longerThanMs ? longerThanMs + (ms - longerThanMs) / times : ms);
  const { setTimeout, setInterval } = globalThis;
  globalThis.setTimeout = (work, ms, ...rest) => setTimeout(work, shorter(ms), ...rest);
  globalThis.setInterval = (work, ms, ...rest) => setInterval(work, shorter(ms), ...rest);
  const sleep = timers.setTimeout;
  timers.setTimeout = (ms, ...rest) => sleep(shorter(ms), ...rest);
  syncBuiltinESMExports();
}
