/** The way to a server, which a test can cut, choke or let fall silent: what networks and load balancers do. */
import { once } from 'node:events';
import net from 'node:net';

/**
 * Program for `node -e` in another network namespace, with the path of a Unix socket, which knows no namespaces, and
 * a port of the loopback there: what comes to that port goes to the socket. Says when it listens.
 */
export const NEAR_END = `const net = require('node:net');
net.createServer((client) => {
  const server = net.connect(process.argv[1]);
  client.pipe(server).pipe(client);
  client.on('error', () => server.destroy()).on('close', () => server.destroy());
  server.on('error', () => client.resetAndDestroy()).on('close', () => client.resetAndDestroy());
}).listen(Number(process.argv[2]), '127.0.0.1', () => console.log('listening'));`;

interface Pair {
  readonly near: net.Socket;
  readonly far: net.Socket;
}

export class Relay {
  readonly #target: () => number;
  readonly #server: net.Server;
  readonly #pairs = new Set<Pair>();
  #isClosed = false;
  /** What came from the server so far. */
  bytes = 0;

  /** `target`: the port on loopback to which a new connection goes. */
  constructor(target: () => number) {
    this.#target = target;
    this.#server = net.createServer((near) => this.#accept(near));
  }

  /** On a port of loopback (0: any), or on a Unix socket, which a process in another network namespace can reach. */
  async listen(at: number | string): Promise<this> {
    this.#server.listen(typeof at === 'string' ? { path: at } : { port: at, host: '127.0.0.1' });
    await once(this.#server, 'listening');
    return this;
  }

  get url(): string {
    return `https://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  get connections(): number {
    return this.#pairs.size;
  }

  #accept(near: net.Socket): void {
    if (this.#isClosed) return void near.resetAndDestroy();
    const pair = { near, far: net.connect(this.#target(), '127.0.0.1') };
    this.#pairs.add(pair);
    near.pipe(pair.far).pipe(near);
    pair.far.on('data', ({ length }: Buffer) => {
      this.bytes += length;
    });
    for (const [one, other] of [
      [near, pair.far],
      [pair.far, near],
    ] as const)
      one
        .on('error', () => other.destroy())
        .on('close', () => {
          other.destroy();
          this.#pairs.delete(pair);
        });
  }

  /** All connections so far are reset; new ones are made as before. */
  reset(): void {
    for (const { near, far } of this.#pairs) {
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
    this.#pairs.clear();
  }

  /** From now on nothing goes over the connections that there are; they stay open. New ones work. */
  silence(): void {
    for (const { near, far } of this.#pairs) {
      far.unpipe(near);
      near.unpipe(far);
      for (const socket of [near, far]) socket.pause();
    }
  }

  /** What silence() held back goes on. */
  resume(): void {
    for (const { near, far } of this.#pairs) near.pipe(far).pipe(near);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.reset();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
