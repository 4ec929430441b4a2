/** Labs of this process that must not outlive it. */
import { stopRunning } from './run.ts';
import { downLab } from './teardown.ts';

const live = new Set<string>();
let installed = false;

function removeAll(): void {
  if (live.size) stopRunning();
  for (const name of live) downLab(name);
  live.clear();
}

const EXIT_BY_SIGNAL = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** Removes the lab when the process ends, by itself or by SIGINT, SIGTERM or SIGHUP. */
export function removeAtExit(lab: string): void {
  live.add(lab);
  if (installed) return;
  installed = true;
  process.on('exit', removeAll);
  for (const [name, status] of Object.entries(EXIT_BY_SIGNAL)) {
    process.on(name, () => {
      removeAll();
      process.exit(status);
    });
  }
}

export function forgetAtExit(lab: string): void {
  live.delete(lab);
}
