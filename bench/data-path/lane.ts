/**
 * A lane: a client pod, a node and a backend pod in namespaces of their own, joined by veth pairs and routes.
 * Lanes differ only in what nftables does on their node, so they can run in turns on one machine.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import process from 'node:process';
import { createInterface, type Interface } from 'node:readline';
import { inNamespace, makeNamespace } from '../support/namespace.ts';

export const CLIENT = '10.128.1.2';
/** The backend pod has one address for each endpoint of the service under test. */
export const BACKENDS = Array.from({ length: 10 }, (_, at) => `10.128.2.${2 + at}`);
export const PORT = 8080;

const ANSWER_MS_MAX = 120_000;

const programs = new Set<ChildProcess>();
// A bench that fails leaves nobody behind.
process.on('exit', () => {
  for (const child of programs) child.kill('SIGKILL');
});

/** One program in a namespace that is asked by lines and answers each with one. */
class Program {
  private readonly child: ChildProcess;
  private readonly lines: Interface;
  private waiting: ((line: string | null) => void) | null = null;

  constructor(program: string, netns: string, args: readonly string[]) {
    this.child = spawn('nsenter', [`--net=${netns}`, program, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.child.stdin!.on('error', () => {});
    this.lines = createInterface({ input: this.child.stdout! });
    this.lines.on('line', (line) => this.answer(line));
    this.child.on('close', () => this.answer(null));
    programs.add(this.child);
  }

  private answer(line: string | null): void {
    this.waiting?.(line);
    this.waiting = null;
  }

  ask(line: string | null): Promise<string> {
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error(`no answer to ${line}`)), ANSWER_MS_MAX);
      this.waiting = (answer) => {
        clearTimeout(limit);
        if (answer === null) reject(new Error(`the load program ended at ${line}`));
        else resolve(answer);
      };
      if (line !== null) this.child.stdin!.write(`${line}\n`);
    });
  }

  end(): void {
    this.child.stdin!.end();
  }
}

export type Kind = 'tcp' | 'udp' | 'tcp-rr' | 'udp-rr';

export class Lane {
  readonly name: string;
  readonly node: string;
  private readonly client: string;
  private readonly backend: string;
  private caller: Program | null = null;
  private server: Program | null = null;

  constructor(name: string, index: number) {
    this.name = name;
    this.client = makeNamespace(`c${index}`);
    this.node = makeNamespace(`n${index}`);
    this.backend = makeNamespace(`b${index}`);
    this.wire(this.client, 'client', '10.128.1.1', [CLIENT]);
    this.wire(this.backend, 'backend', '10.128.2.1', BACKENDS);
    const set = (netns: string, ...settings: string[]) => inNamespace(netns, 'sysctl', '-qw', ...settings);
    set(this.node, 'net.ipv4.ip_forward=1');
    // So many short connections reuse their ports soon.
    set(this.client, 'net.ipv4.ip_local_port_range=1024 65535', 'net.ipv4.tcp_tw_reuse=1');
  }

  private wire(pod: string, side: string, gateway: string, addresses: readonly string[]): void {
    const podNetns = pod.slice('/run/netns/'.length);
    inNamespace(
      this.node,
      'ip',
      ...['link', 'add', side, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', podNetns],
    );
    inNamespace(this.node, 'ip', 'addr', 'add', `${gateway}/24`, 'dev', side);
    inNamespace(this.node, 'ip', 'link', 'set', side, 'up');
    for (const address of addresses) inNamespace(pod, 'ip', 'addr', 'add', `${address}/24`, 'dev', 'eth0');
    inNamespace(pod, 'ip', 'link', 'set', 'eth0', 'up');
    inNamespace(pod, 'ip', 'route', 'add', 'default', 'via', gateway);
  }

  /** Starts both ends on one processor. */
  async start(program: string, cpu: number): Promise<void> {
    this.server = new Program(program, this.backend, ['serve', String(cpu), String(PORT)]);
    await this.server.ask(null);
    this.caller = new Program(program, this.client, ['call', String(cpu)]);
  }

  /** Microseconds a call. Throws when a call failed. */
  async call(kind: Kind, address: string, port: number, count: number): Promise<number> {
    const [nanoseconds, failed] = (await this.caller!.ask(`${kind} ${address} ${port} ${count}`))
      .split(' ')
      .map(Number);
    if (failed !== 0)
      throw new Error(`${this.name}: ${failed} of ${count} ${kind} calls to ${address} failed`);
    return nanoseconds! / count / 1000;
  }

  stop(): void {
    this.caller?.end();
    this.server?.end();
  }
}
