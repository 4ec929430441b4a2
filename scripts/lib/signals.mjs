// Being told to end: whoever has begun something takes it down first.
import process from 'node:process';

/** Aborted by the first signal that asks this process to end, with its name as the reason. */
export function stopOnSignals() {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop.abort(signal));
  return stop.signal;
}
