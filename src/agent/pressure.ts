/** Tables that fill up: said once when there is little room left, and once when there is room again. */
import type { TableUse } from '../dataplane/dataplane.ts';
import type { Log } from './status.ts';

/** Of the limit: said above the first, taken back below the second, so that a table at the edge is not said twice. */
const FULL_FROM = 0.9;
const ROOM_BELOW = 0.8;

export class PressureLog {
  readonly #log: Log;
  readonly #full = new Set<string>();

  constructor(log: Log) {
    this.#log = log;
  }

  look(tables: readonly TableUse[]): void {
    for (const { table, used, limit } of tables) {
      const share = limit > 0 ? used / limit : 0;
      if (share >= FULL_FROM && !this.#full.has(table)) {
        this.#full.add(table);
        this.#log.warn(
          { table, used, limit },
          'a table is nearly full: what needs more room will be refused',
        );
      } else if (share < ROOM_BELOW && this.#full.delete(table)) {
        this.#log.info({ table, used, limit }, 'a table has room again');
      }
    }
  }
}
