/** Keeps the admin socket in its place: a node is served also while /run is full, or after somebody has emptied it. */
import { existsSync } from 'node:fs';
import type { Log } from '../agent/status.ts';
import { type AdminOptions, type AdminServer, isForLackOfRoom, serveAdmin } from './admin.ts';

/** As the agent's other servers, which try again when they cannot listen. */
const LOOK_MS = 5000;

export interface KeptAdminOptions extends AdminOptions {
  readonly log: Log;
  readonly lookMs?: number;
}

/** Throws what serveAdmin() does, but for a lack of room, which may pass. */
export async function keepAdmin(options: KeptAdminOptions): Promise<AdminServer> {
  const keeper = new AdminKeeper(options);
  await keeper.open();
  return keeper;
}

class AdminKeeper implements AdminServer {
  readonly #options: KeptAdminOptions;
  #server: AdminServer | null = null;
  #said = '';
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | null = null;

  constructor(options: KeptAdminOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    try {
      this.#server = await serveAdmin(this.#options);
    } catch (error) {
      if (!isForLackOfRoom(error)) throw error;
      this.#say(error as Error);
    }
    this.#timer = setInterval(() => {
      this.#looking ??= this.#look().finally(() => {
        this.#looking = null;
      });
    }, this.#options.lookMs ?? LOOK_MS).unref();
  }

  #say({ message }: Error): void {
    if (message !== this.#said)
      this.#options.log.error({}, `${message}; trying again every ${LOOK_MS / 1000} s`);
    this.#said = message;
  }

  async #look(): Promise<void> {
    const { socketPath, log } = this.#options;
    // One that somebody else has put there is for serveAdmin() to judge, and for us to leave alone.
    if (this.#server && existsSync(socketPath)) return;
    const wasThere = this.#server !== null;
    try {
      await this.#server?.close();
      this.#server = null;
      this.#server = await serveAdmin(this.#options);
      this.#said = '';
      log.info(
        { socketPath },
        wasThere ? 'the admin socket was gone: made anew' : 'the admin socket listens now',
      );
    } catch (error) {
      this.#say(error as Error);
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#looking;
    await this.#server?.close();
  }
}
