/**
 * A lane: a client pod, a node and a backend pod in namespaces of their own, joined by veth pairs and routes.
 * Lanes differ only in what nftables does on their node, so they can run in turns on one machine.
 */
import { LoadProgram } from '../support/load-program.ts';
import { inNamespace, makeNamespace } from '../support/namespace.ts';

export const CLIENT = '10.128.1.2';
/** The backend pod has one address for each endpoint of the service under test. */
export const BACKENDS = Array.from({ length: 10 }, (_, at) => `10.128.2.${2 + at}`);
export const PORT = 8080;

export type Kind = 'tcp' | 'udp' | 'tcp-rr' | 'udp-rr';

export class Lane {
  readonly name: string;
  readonly node: string;
  private readonly client: string;
  private readonly backend: string;
  private caller: LoadProgram | null = null;
  private server: LoadProgram | null = null;

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

  /** Starts both ends on one processor. `under`: what runs the client, such as a shell that moves to a cgroup first. */
  async start(cpu: number, under: readonly string[] = []): Promise<void> {
    this.server = new LoadProgram(['nsenter', `--net=${this.backend}`], ['serve', String(cpu), String(PORT)]);
    await this.server.ready();
    this.caller = new LoadProgram([...under, 'nsenter', `--net=${this.client}`], ['call', String(cpu)]);
  }

  /** Microseconds a call. Throws when a call failed. */
  async call(kind: Kind, address: string, port: number, count: number): Promise<number> {
    const { nanoseconds, failed } = await this.caller!.call(kind, address, port, count);
    if (failed !== 0)
      throw new Error(`${this.name}: ${failed} of ${count} ${kind} calls to ${address} failed`);
    return nanoseconds / count / 1000;
  }

  async stop(): Promise<void> {
    await Promise.all([this.caller?.end(), this.server?.end()]);
  }
}
