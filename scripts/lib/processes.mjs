// Knowing, and ending, the processes that a run has started: they carry the run's name in their environment, so
// they are found whatever has become of their parents, and nobody else's process is ever touched.
import { readdirSync, readFileSync } from 'node:fs';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';

export const RUN_VARIABLE = 'TRIPLANE_TEST_RUN';

const GRACE_MS = 5_000;
const POLL_MS = 50;

function readProc(pid, name) {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    // Gone meanwhile, or another user's.
    return '';
  }
}

/** Processes of the run that are alive: [{ pid, command }]. */
export function processesOf(run) {
  const mark = `${RUN_VARIABLE}=${run}`;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => readProc(pid, 'environ').split('\0').includes(mark))
    .filter((pid) => !/^State:\s+[ZX]/m.test(readProc(pid, 'status')))
    .map((pid) => ({
      pid: Number(pid),
      command: readProc(pid, 'cmdline').split('\0').join(' ').trim().slice(0, 200),
    }));
}

function signal(pid, name) {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (error.code !== 'ESRCH') throw error;
  }
}

async function goneWithin(run, ms) {
  const deadline = Date.now() + ms;
  while (processesOf(run).length > 0) {
    if (Date.now() > deadline) return false;
    await sleep(POLL_MS);
  }
  return true;
}

/** Waits for the run's processes to end, then ends them. Returns those that did not end by themselves. */
export async function endProcessesOf(run, patienceMs) {
  if (await goneWithin(run, patienceMs)) return [];
  const stragglers = processesOf(run);
  for (const { pid } of stragglers) signal(pid, 'SIGTERM');
  if (!(await goneWithin(run, GRACE_MS))) {
    for (const { pid } of processesOf(run)) signal(pid, 'SIGKILL');
    await goneWithin(run, GRACE_MS);
  }
  return stragglers;
}
