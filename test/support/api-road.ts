/** An API server outside of the network namespace in which it is asked, that may come, go and fall silent. */
import net from 'node:net';
import process from 'node:process';
import type { Lab } from '../../src/lab/lab.ts';
import type { FakeApiServer } from './apiserver.ts';
import { NEAR_END } from './relay.ts';

/** On the node's loopback. */
export const ROAD_PORT = 6443;

/** The way from a node's namespace to whichever API server there is at the moment, or to none. */
export class ApiRoad {
  api: FakeApiServer | null = null;
  /** All that there were. */
  readonly apis: FakeApiServer[] = [];
  readonly socket: string;
  readonly #server: net.Server;
  readonly #open = new Set<net.Socket>();

  constructor(socket: string) {
    this.socket = socket;
    this.#server = net.createServer((near) => {
      if (!this.api) return void near.destroy();
      const far = net.connect(this.api.port, '127.0.0.1');
      near.pipe(far).pipe(near);
      this.#open.add(far);
      far.on('close', () => this.#open.delete(far));
      near.on('error', () => far.destroy()).on('close', () => far.destroy());
      far.on('error', () => near.destroy()).on('close', () => near.destroy());
    });
  }

  async open(lab: Lab, node: string): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(this.socket, resolve));
    const relay = lab.node(node).spawn([process.execPath, '-e', NEAR_END, this.socket, String(ROAD_PORT)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve) => relay.stdout!.once('data', resolve));
    return this;
  }

  /** From now on there is this server, which already holds everything. */
  lead(api: FakeApiServer): FakeApiServer {
    this.api = api;
    this.apis.push(api);
    return api;
  }

  /** What is connected stays so and brings nothing any more, not even its end; who comes anew is served. */
  silence(): void {
    for (const far of this.#open) far.removeAllListeners('data').removeAllListeners('end').unpipe().resume();
  }

  async cut(): Promise<void> {
    const { api } = this;
    this.api = null;
    await api?.close();
  }

  async close(): Promise<void> {
    await this.cut();
    this.#server.close();
  }
}
