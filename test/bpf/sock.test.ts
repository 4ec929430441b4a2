/**
 * The socket programs on a cgroup of the test's own, with real sockets on loopback: clients run in that cgroup, the
 * backend is in this process, outside of it.
 */
import { spawn } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import path from 'node:path';
import process from 'node:process';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { SOCK_PROGRAMS } from '../../src/dataplane/ebpf/attach-types.ts';
import { bpfNative } from '../../src/dataplane/ebpf/native.ts';
import type { Family } from '../../src/model/records.ts';
import { loadWorld, type World } from '../support/bpf-world.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

type Reached = [tcp: string, udp: string, connectedUdp: string];

/** Where cgroup v2 is mounted: the field after the separator names the file system (proc_pid_mountinfo(5)). */
function cgroupRoot(): string | undefined {
  const line = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .find((one) => one.includes(' - cgroup2 '));
  return line?.split(' ')[4];
}

const ROOT = cgroupRoot();
const root = skipUnless(privilege() === 'root' && ROOT !== undefined, 'needs root and cgroup v2');
const VIP = { 4: '192.0.2.77', 6: '2001:db8::77' };
const NOBODY = { 4: '192.0.2.78', 6: '2001:db8::78' };
const LOOPBACK = { 4: '127.0.0.1', 6: '::1' };

const CLIENT = {
  /** Connects, says what it sees of its peer and what it hears. */
  tcp: `const s = require('net').connect({host: process.argv[1], port: +process.argv[2]});
    s.on('connect', () => console.log(JSON.stringify([s.remoteAddress, s.remotePort])));
    s.on('data', d => { console.log(JSON.stringify(String(d))); s.destroy(); });
    s.on('error', e => console.log(JSON.stringify(e.code)));
    setTimeout(() => process.exit(), 3000).unref();`,
  /** Sends three unconnected datagrams; says who answered. */
  udp: `const d = require('dgram').createSocket(process.argv[1].includes(':') ? 'udp6' : 'udp4');
    let left = 3;
    const send = () => d.send('x', +process.argv[2], process.argv[1]);
    d.on('message', (m, from) => { console.log(JSON.stringify([from.address, from.port, String(m)]));
      if (--left) send(); else d.close(); });
    send(); setTimeout(() => process.exit(), 3000).unref();`,
  connectedUdp: `const d = require('dgram').createSocket(process.argv[1].includes(':') ? 'udp6' : 'udp4');
    d.connect(+process.argv[2], process.argv[1], () => {
      console.log(JSON.stringify([d.remoteAddress().address, d.remoteAddress().port])); d.send('x'); });
    d.on('message', (m, from) => { console.log(JSON.stringify([from.address, from.port, String(m)])); d.close(); });
    setTimeout(() => process.exit(), 3000).unref();`,
  /** What connect() and sendmsg() say of it, for TCP and for UDP unconnected and connected. */
  reach: `const [host, port] = [process.argv[1], +process.argv[2]];
    const ask = (how) => new Promise((answer) => how((error) => answer(error?.code ?? 'reached')));
    const udp = () => require('dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4').unref();
    Promise.all([
      ask((done) => require('net').connect({host, port}, done).on('error', done)),
      ask((done) => udp().send('x', port, host, done)),
      ask((done) => udp().connect(port, host, done)),
    ]).then((all) => console.log(JSON.stringify(all)));`,
  bind: `const s = require('net').createServer();
    s.on('error', e => console.log(JSON.stringify(e.code)));
    s.listen(+process.argv[2], process.argv[1], () => { console.log('"bound"'); s.close(); });`,
};

/** Connects and sends, and asks who its peers are when it is told to; in Python, which reads only when it is told to. */
const KEEPER = `import json, socket, sys
peer = (sys.argv[1], 80)
tcp = socket.create_connection(peer)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.sendto(b'x', peer)
sys.stdout.write('ready\\n')
sys.stdout.flush()
sys.stdin.readline()
print(json.dumps([tcp.getpeername(), tcp.recv(9).decode(), udp.recvfrom(9)[1]]))`;

root.describe('socket programs', () => {
  const group = path.join(ROOT!, `tpb${process.pid}`);
  const links: number[] = [];
  const servers: Server[] = [];
  const sockets: Socket[] = [];
  const ports: Record<string, number> = {};
  let world: World;

  beforeAll(async () => {
    mkdirSync(group);
    world = await loadWorld();
    for (const [name, type] of Object.entries(SOCK_PROGRAMS)) {
      links.push(bpfNative().bpfLinkCgroup(world.programs[name]!, group, type));
    }
    world.settings.flags = ABI.S_SOCK_POD;
    for (const family of [4, 6] as const) {
      const server = createServer((socket) => socket.end(`tcp${family}`));
      server.listen(0, LOOPBACK[family]);
      await once(server, 'listening');
      servers.push(server);
      ports[`TCP${family}`] = (server.address() as { port: number }).port;
      const socket = createSocket(family === 4 ? 'udp4' : 'udp6');
      socket.on('message', (_, from) => socket.send(`udp${family}`, from.port, from.address));
      socket.bind(0, LOOPBACK[family]);
      await once(socket, 'listening');
      sockets.push(socket);
      ports[`UDP${family}`] = socket.address().port;
      for (const protocol of ['TCP', 'UDP'] as const) {
        world.addService({
          address: VIP[family],
          port: 80,
          protocol,
          flags: ABI.F_SOCK_POD | ABI.F_SOCK_NODE,
          backends: [[LOOPBACK[family], ports[`${protocol}${family}`]!]],
        });
        world.addService({
          address: NOBODY[family],
          port: 80,
          protocol,
          flags: ABI.F_SOCK_POD,
          inside: 'reject',
          outside: 'reject',
        });
      }
    }
  });
  afterAll(() => {
    for (const link of links) bpfNative().bpfClose(link);
    for (const server of servers) server.close();
    for (const socket of sockets) socket.close();
    world?.close();
    rmdirSync(group);
  });

  /** Runs a client in the cgroup; what it printed, line by line. */
  function client(kind: keyof typeof CLIENT, host: string, port: number): Promise<unknown[]> {
    return clientIn(group, ['exec'], [CLIENT[kind], host, String(port)]);
  }

  /** In a cgroup, and in a network namespace of its own that has nothing but loopback. */
  async function reach(dir: string, family: Family): Promise<Reached> {
    const alone = ['exec', 'unshare', '-n', 'sh', '-c', `'ip link set lo up; exec "$0" "$@"'`];
    const lines = await clientIn(dir, alone, [CLIENT.reach, VIP[family], '80']);
    return lines[0] as Reached;
  }

  async function clientIn(dir: string, start: readonly string[], args: readonly string[]) {
    const script = `echo $$ > ${dir}/cgroup.procs; ${start.join(' ')} "$0" -e "$@"`;
    const child = spawn('sh', ['-c', script, process.execPath, ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    child.stdout.on('data', (data) => {
      out += data;
    });
    await once(child, 'close');
    return out
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as unknown);
  }

  describe.each([4, 6] as const)('IPv%i', (family: Family) => {
    test('TCP: connected to the backend, believing in the frontend', async () => {
      expect(await client('tcp', VIP[family], 80)).toEqual([[VIP[family], 80], `tcp${family}`]);
    });

    test('UDP, unconnected: answers come from the frontend', async () => {
      const line = [VIP[family], 80, `udp${family}`];
      expect(await client('udp', VIP[family], 80)).toEqual([line, line, line]);
    });

    test('UDP, connected', async () => {
      expect(await client('connectedUdp', VIP[family], 80)).toEqual([
        [VIP[family], 80],
        [VIP[family], 80, `udp${family}`],
      ]);
    });

    test('no endpoints: refused', async () => {
      expect(await client('tcp', NOBODY[family], 80)).toEqual(['ECONNREFUSED']);
    });
  });

  test('IPv4 by an IPv6 socket', async () => {
    expect(await client('tcp', `::ffff:${VIP[4]}`, 80)).toEqual([[`::ffff:${VIP[4]}`, 80], 'tcp4']);
  });

  test('no frontend: untouched', async () => {
    expect(await client('tcp', LOOPBACK[4], ports.TCP4!)).toEqual([[LOOPBACK[4], ports.TCP4], 'tcp4']);
  });

  describe('a pod that has opted out', () => {
    /** The backend's address is loopback's, where nobody listens; the frontend's has no route. */
    const TRANSLATED: Reached = ['ECONNREFUSED', 'reached', 'reached'];
    const UNTOUCHED: Reached = ['ENETUNREACH', 'ENETUNREACH', 'ENETUNREACH'];
    const dirs: string[] = [];
    const made = (...below: string[]) => {
      let dir = group;
      for (const name of below) {
        dir = path.join(dir, name);
        if (existsSync(dir)) continue;
        mkdirSync(dir);
        dirs.push(dir);
      }
      return dir;
    };
    const key = (dir: string) =>
      new Uint8Array(BigUint64Array.of(statSync(dir, { bigint: true }).ino).buffer);
    const optOut = (dir: string) =>
      bpfNative().bpfMapUpdate(world.maps.tp_optouts!.fd, key(dir), new Uint8Array(4), 0);
    afterEach(() => {
      for (const dir of [group, ...dirs]) bpfNative().bpfMapDelete(world.maps.tp_optouts!.fd, key(dir));
      for (const dir of dirs.splice(0).reverse()) rmdirSync(dir);
      world.settings.flags = ABI.S_SOCK_POD;
    });

    test.each([4, 6] as const)(
      'IPv%i: its sockets are left alone, its neighbour’s are not',
      async (family) => {
        const [pod, other] = [made('pod'), made('other')];
        optOut(pod);
        // The flag says whether anybody has to be looked for.
        expect(await reach(pod, family)).toEqual(TRANSLATED);
        world.settings.flags = ABI.S_SOCK_POD | ABI.S_SOCK_OPTOUT;
        expect(await reach(pod, family)).toEqual(UNTOUCHED);
        expect(await reach(other, family)).toEqual(TRANSLATED);
        expect(await reach(made('pod', 'container'), family)).toEqual(UNTOUCHED);
      },
    );

    test('however deep in it the process is', async () => {
      world.settings.flags = ABI.S_SOCK_POD | ABI.S_SOCK_OPTOUT;
      const pod = made('x', 'y', 'pod');
      optOut(pod);
      const deep = Array.from({ length: 20 }, (_, i) => `d${i}`);
      expect(await reach(made('x', 'y', 'pod', ...deep), 4)).toEqual(UNTOUCHED);
      expect(await reach(made('x', 'y'), 4)).toEqual(TRANSLATED);
    });

    test('a socket that was translated keeps its peer', async () => {
      const script = `echo $$ > ${group}/cgroup.procs; exec python3 -c "$0" "$1"`;
      const child = spawn('sh', ['-c', script, KEEPER, VIP[4]], { stdio: ['pipe', 'pipe', 'inherit'] });
      child.stdout.setEncoding('utf8');
      const [first] = (await once(child.stdout, 'data')) as [string];
      expect(first).toBe('ready\n');
      optOut(group);
      world.settings.flags = ABI.S_SOCK_POD | ABI.S_SOCK_OPTOUT;
      child.stdin.end('go\n');
      const [text] = (await once(child.stdout, 'data')) as [string];
      await once(child, 'close');
      expect(JSON.parse(text)).toEqual([[VIP[4], 80], 'tcp4', [VIP[4], 80]]);
    });
  });

  test('a pod may listen on whatever port the node has given away', async () => {
    world.tables.settings.longs[1] = 0n;
    const port = 30999;
    bpfNative().bpfMapUpdate(
      world.maps.tp_nodeports!.fd,
      new Uint8Array(Uint32Array.of(port).buffer),
      new Uint8Array(BigUint64Array.of(3n).buffer),
      0,
    );
    expect(await client('bind', '0.0.0.0', port)).toEqual(['bound']);
  });
});
