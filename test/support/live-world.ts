/**
 * A lab of two nodes with the programs on the first one's devices: real sockets, real checksums left to the device,
 * a foreign firewall that drops what its connection tracking finds invalid, and no agent.
 */
import { type ChildProcess, spawnSync } from 'node:child_process';
import process from 'node:process';
import { ABI, LAYOUTS } from '../../src/dataplane/ebpf/abi.ts';
import {
  ATTACH_TCX_EGRESS,
  ATTACH_TCX_INGRESS,
  ATTACH_XDP,
  XDP_GENERIC,
  XDP_NATIVE,
} from '../../src/dataplane/ebpf/attach-types.ts';
import { bpfNative } from '../../src/dataplane/ebpf/native.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import type { Place } from '../../src/lab/place.ts';
import { CLUSTER_CIDRS } from '../../src/lab/plan.ts';
import { applySettings } from '../../src/lab/run.ts';
import type { Family } from '../../src/model/records.ts';
import { loadWorld, type World } from './bpf-world.ts';
import { SLOWNESS } from './slowness.ts';

export type Hook = 'tcx' | 'clsact';
const CLSACT_PRIORITY = 7;
const DEVICES = ['eth0', 'vetha', 'vethb', 'lo'] as const;

/** Drops what connection tracking cannot place, as many nodes' own rules do. */
const FOREIGN_RULES = `table inet foreign {
  chain forward { type filter hook forward priority 0; policy accept; ct state invalid counter drop; }
}
`;

const ECHO = `
const [proto, family, port] = process.argv.slice(1);
if (proto === 'udp') {
  const socket = require('node:dgram').createSocket({ type: 'udp' + family, ipv6Only: family === '6' });
  socket.on('message', (text, from) => socket.send(text, from.port, from.address));
  socket.bind(Number(port), () => console.log('ready'));
} else {
  const server = require('node:net').createServer((socket) => {
    let bytes = 0;
    socket.on('error', () => {});
    socket.on('data', (text) => { bytes += text.length; if (text.includes('!')) socket.end(Buffer.alloc(bytes, 'x')); });
  });
  server.listen({ port: Number(port), host: family === '4' ? '0.0.0.0' : '::', ipv6Only: true }, () => console.log('ready'));
}`;

/** For a process that starts, asks and gets its answer. */
const PATIENCE_MS = 30_000 * SLOWNESS;

const ASK = `
const [proto, family, port, address, size, patienceMs] = process.argv.slice(1);
const text = Buffer.alloc(Number(size), 'y');
const done = (answer) => { console.log(String(answer)); process.exit(0); };
setTimeout(() => done('timeout'), Number(patienceMs));
if (proto === 'udp') {
  const socket = require('node:dgram').createSocket('udp' + family);
  socket.on('message', (got) => done(got.length));
  socket.connect(Number(port), address, () => socket.send(text));
} else {
  text[text.length - 1] = 33;
  let bytes = 0;
  const socket = require('node:net').connect(Number(port), address, () => socket.write(text));
  socket.on('data', (got) => { bytes += got.length; });
  socket.on('end', () => done(bytes));
  socket.on('error', (error) => done(error.code));
}`;

export class LiveWorld {
  readonly lab: Lab;
  readonly world: World;
  readonly #netns: string;
  readonly #indexes: Record<string, number>;
  readonly #undo: (() => void)[] = [];
  readonly #children: ChildProcess[] = [];

  static async create(label: string): Promise<LiveWorld> {
    const lab = await createLab({
      name: `${label}${process.pid}`,
      nodes: [{ name: 'n1' }, { name: 'n2' }],
      pods: [
        { name: 'a', node: 'n1' },
        { name: 'b', node: 'n1' },
        { name: 'c', node: 'n2' },
      ],
    });
    try {
      const live = new LiveWorld(lab, await loadWorld());
      await live.#prepare();
      return live;
    } catch (error) {
      lab.down();
      throw error;
    }
  }

  constructor(lab: Lab, world: World) {
    this.lab = lab;
    this.world = world;
    const { namespace } = lab.node('n1');
    this.#netns = `/run/netns/${namespace}`;
    const { stdout } = spawnSync('ip', ['-n', namespace, '-j', 'link'], { encoding: 'utf8' });
    const links = JSON.parse(stdout) as { ifname: string; ifindex: number }[];
    this.#indexes = Object.fromEntries(links.map((link) => [link.ifname, link.ifindex]));
  }

  async #prepare(): Promise<void> {
    const node = this.lab.node('n1');
    const { status, stderr } = await node.exec(['nft', '-f', '-'], FOREIGN_RULES);
    if (status !== 0) throw new Error(stderr);
    await applySettings([`netns ${this.#netns}`, 'sysctl net/ipv4/conf/lo/accept_local 1']);
    for (const device of DEVICES)
      this.world.setDevice(this.#indexes[device]!, node.addresses[4]!, node.addresses[6]!);
    for (const family of [4, 6] as const)
      this.world.settings.setPrefixes('pod', family, [CLUSTER_CIDRS[family]]);
    this.world.settings.flags = ABI.S_DETECTOR | ABI.S_NODE_EGRESS;
  }

  ifindex(device: string): number {
    return this.#indexes[device]!;
  }

  attach(hook: Hook): void {
    for (const device of DEVICES) {
      if (device !== 'lo') this.#attachOne(hook, device, 'ingress');
      this.#attachOne(hook, device, 'egress');
    }
  }

  #attachOne(hook: Hook, device: string, point: 'ingress' | 'egress'): void {
    const native = bpfNative();
    const program = this.world.programs[`tp_${point}`]!;
    const ifindex = this.ifindex(device);
    if (hook === 'tcx') {
      this.#link(
        program,
        ifindex,
        point === 'ingress' ? ATTACH_TCX_INGRESS : ATTACH_TCX_EGRESS,
        0,
        this.#netns,
      );
      return;
    }
    const where = point === 'ingress' ? 1 : 2;
    native.bpfClsactAttach(program, ifindex, where, CLSACT_PRIORITY, 1, this.#netns);
    this.#undo.push(() => void native.bpfClsactDetach(0, ifindex, where, CLSACT_PRIORITY, 1, this.#netns));
  }

  #link(program: number, ifindex: number, type: number, flags: number, netns: string): void {
    const link = bpfNative().bpfLinkDevice(program, ifindex, type, flags, netns);
    this.#undo.push(() => bpfNative().bpfClose(link));
  }

  /** XDP on the uplink. */
  attachXdp(mode: 'generic' | 'native'): void {
    const flags = mode === 'generic' ? XDP_GENERIC : XDP_NATIVE;
    this.#link(this.world.programs.tp_xdp!, this.ifindex('eth0'), ATTACH_XDP, flags, this.#netns);
  }

  /** A program on the other end of the uplink, without which a veth does not take what XDP sends. */
  attachFabric(program: number): void {
    const { namespace } = this.lab.plan.fabric;
    const { stdout } = spawnSync('ip', ['-n', namespace, '-j', 'link', 'show', 'node0'], {
      encoding: 'utf8',
    });
    const [link] = JSON.parse(stdout) as { ifindex: number }[];
    this.#link(program, link!.ifindex, ATTACH_XDP, XDP_NATIVE, `/run/netns/${namespace}`);
  }

  /** Whether senders leave checksums to their devices; XDP forwards only finished ones. */
  async checksums(state: 'on' | 'off'): Promise<void> {
    const places = [this.lab.client.namespace, ...['a', 'b', 'c'].map((pod) => this.lab.pod(pod).namespace)];
    await applySettings(places.flatMap((name) => [`netns /run/netns/${name}`, `txcsum eth0 ${state}`]));
  }

  /** Packets that the foreign firewall has dropped. */
  async foreignDrops(): Promise<number> {
    const { stdout } = await this.lab.node('n1').exec(['nft', 'list', 'table', 'inet', 'foreign']);
    return Number(/packets (\d+)/.exec(stdout)![1]);
  }

  /** Takes all programs off. */
  detach(): void {
    for (const one of this.#undo.splice(0).reverse()) one();
  }

  /** A server that gives back what it gets: datagrams as they are, a stream's length after "!". */
  async echo(place: Place, proto: 'tcp' | 'udp', family: Family, port: number): Promise<void> {
    const child = place.spawn([process.execPath, '-e', ECHO, proto, String(family), String(port)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#children.push(child);
    await new Promise((resolve, reject) => {
      child.stdout!.once('data', resolve);
      child.once('exit', () => reject(new Error('the echo server ended')));
    });
  }

  /** Waits until both ends of a client port's connections have heard each other's end. Throws after ten seconds. */
  async closed(places: readonly Place[], clientPort: number): Promise<void> {
    const filter = ['-Hnta', 'exclude', 'time-wait', `( sport = :${clientPort} or dport = :${clientPort} )`];
    const end = Date.now() + 10_000;
    for (const place of places) {
      for (let open = '?'; open !== ''; ) {
        if (Date.now() > end) throw new Error(`still open in ${place.name}: ${open}`);
        open = (await place.exec(['ss', ...filter])).stdout.trim();
      }
    }
  }

  /** Sends `size` bytes and says how many came back, or what went wrong. */
  async send(
    place: Place,
    proto: 'tcp' | 'udp',
    address: string,
    port: number,
    size: number,
  ): Promise<string> {
    const family = address.includes(':') ? 6 : 4;
    const args = [proto, String(family), String(port), address, String(size), String(PATIENCE_MS)];
    const { stdout } = await place.exec([process.execPath, '-e', ASK, ...args]);
    return stdout.trim();
  }

  /**
   * Lets a place send less at once to an address. By its route: a veth whose own MTU is less than its peer's also drops,
   * without a word to anybody, single packets that are larger on their way in, while those of segmentation offload pass.
   */
  async narrow(place: string, device: string, address: string, bytes: number) {
    const route = `${address} dev ${device}`;
    const { namespace } = place === 'fabric' ? this.lab.plan.fabric : this.lab.place(place);
    const show = ['-n', namespace, address.includes(':') ? '-6' : '-4', 'route', 'show', ...route.split(' ')];
    const { stdout } = spawnSync('ip', show, { encoding: 'utf8' });
    await this.lab.ip(place, [`route replace ${route} mtu lock ${bytes}`]);
    const back = stdout.trim() === '' ? `route del ${route}` : `route replace ${route}`;
    return { undo: () => this.lab.ip(place, [back]) };
  }

  /** Nobody remembers the MTU of a path. */
  async forgetPaths(): Promise<void> {
    const { fabric, client } = this.lab.plan;
    const places = [fabric, client, ...['n1', 'n2', 'a', 'b', 'c'].map((name) => this.lab.place(name))];
    await applySettings(
      places.flatMap(({ namespace }) => [
        `netns /run/netns/${namespace}`,
        ...['sysctl net/ipv4/route/flush 1', 'sysctl net/ipv6/route/flush 1'],
      ]),
    );
  }

  /** Connections that pass the stack by, and others. */
  wholes(): { whole: number; split: number } {
    const { bytes } = this.world.tables.conns;
    const flags = this.world.connections().map(({ at }) => bytes[at + LAYOUTS.tp_conn.members.flags]!);
    const whole = flags.filter((one) => one & ABI.C_WHOLE).length;
    return { whole, split: flags.length - whole };
  }

  remove(): void {
    this.detach();
    for (const child of this.#children) child.kill('SIGKILL');
    this.world.close();
    this.lab.down();
  }
}
