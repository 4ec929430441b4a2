/**
 * A real etcd and a real kube-apiserver in a namespace of the bench, as envtest (sigs.k8s.io/controller-runtime) starts
 * them: from KUBEBUILDER_ASSETS. This process enters that namespace, so that it speaks to the server without a way from
 * the machine's own network; nodes of lanes get a veth to it. All that they write is in a folder that goes with them.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { accessSync, closeSync, constants, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { podProgram } from '../../src/lab/paths.ts';
import { openLog, placement } from '../../src/lab/pod-process.ts';
import { loadNative } from '../../src/node/native.ts';
import { inNamespace, makeNamespace, removeNamespacesAtExit } from '../support/namespace.ts';
import { lastWords } from './last-words.ts';

/** Of the server, in its namespace and from every node that is linked to it. */
const ADDRESS = '10.254.0.1';
const PORT = 6443;
const ETCD = 'http://127.0.0.1:2379';
/** All that clusterIp() gives is in these. */
const SERVICE_RANGES = '10.200.0.0/13,fd00:201::/96';
const START_MS_MAX = 120_000;
const CONNECTIONS = 32;

/** '' when the API server can be started, else why not. */
export function missingApiServer(env: NodeJS.ProcessEnv = process.env): string {
  const folder = env.KUBEBUILDER_ASSETS ?? '';
  if (folder === '') return 'needs KUBEBUILDER_ASSETS: a folder with kube-apiserver and etcd';
  const missing = ['etcd', 'kube-apiserver'].filter((name) => !isExecutable(path.join(folder, name)));
  return missing.length === 0 ? '' : `needs ${missing.join(' and ')} in KUBEBUILDER_ASSETS`;
}

export function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export class ApiServer {
  readonly #folder = mkdtempSync(path.join(os.tmpdir(), `triplane-bench-api-${process.pid}-`));
  readonly #netns: string;
  readonly #children: ChildProcess[] = [];
  readonly #token = randomBytes(16).toString('hex');
  #agent = new https.Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  #links = 0;

  private constructor(netns: string) {
    this.#netns = netns;
    process.on('exit', () => this.close());
  }

  /** Throws, with the last lines of whoever did not start. */
  static async start(): Promise<ApiServer> {
    const netns = makeNamespace('api');
    removeNamespacesAtExit();
    inNamespace(netns, 'ip', 'addr', 'add', `${ADDRESS}/32`, 'dev', 'lo');
    // Loopback as source of the nodes' veths: without a route of its own no answer would be sent back.
    inNamespace(netns, 'sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=0', 'net.ipv4.conf.default.rp_filter=0');
    loadNative().netnsEnter(netns);
    const server = new ApiServer(netns);
    server.#writeKeys();
    await server.#startEtcd();
    await server.#startServer();
    return server;
  }

  /** The path of a kubeconfig for its administrator. */
  get kubeconfig(): string {
    return path.join(this.#folder, 'kubeconfig');
  }

  get folder(): string {
    return this.#folder;
  }

  /** Gives a node, by the path of its namespace, a way to the server. */
  link(netns: string): void {
    const n = ++this.#links;
    const [near, address] = [`api${n}`, `10.254.${1 + (n >> 8)}.${n & 255}`];
    const peer = ['peer', 'name', 'api', 'netns', netns];
    inNamespace(this.#netns, 'ip', 'link', 'add', near, 'type', 'veth', ...peer);
    inNamespace(this.#netns, 'ip', 'link', 'set', near, 'up');
    inNamespace(netns, 'ip', 'addr', 'add', `${address}/32`, 'dev', 'api');
    inNamespace(netns, 'ip', 'link', 'set', 'api', 'up');
    inNamespace(netns, 'ip', 'route', 'replace', `${ADDRESS}/32`, 'dev', 'api', 'src', address);
    inNamespace(this.#netns, 'ip', 'route', 'replace', `${address}/32`, 'dev', near, 'src', ADDRESS);
  }

  #writeKeys(): void {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const write = (name: string, text: string | Buffer) =>
      writeFileSync(path.join(this.#folder, name), text, { mode: 0o600 });
    write('sa.key', privateKey.export({ type: 'pkcs8', format: 'pem' }));
    write('sa.pub', publicKey.export({ type: 'spki', format: 'pem' }));
    write('tokens.csv', `${this.#token},admin,1,"system:masters"\n`);
    const cluster = {
      server: `https://${ADDRESS}:${PORT}`,
      'certificate-authority': path.join(this.#folder, 'apiserver.crt'),
    };
    const config = {
      ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'bench' },
      clusters: [{ name: 'bench', cluster }],
      users: [{ name: 'admin', user: { token: this.#token } }],
      contexts: [{ name: 'bench', context: { cluster: 'bench', user: 'admin' } }],
    };
    write('kubeconfig', JSON.stringify(config));
  }

  #spawn(name: string, args: readonly string[]): ChildProcess {
    const log = openLog(path.join(this.#folder, `${name}.log`));
    const program = path.join(process.env.KUBEBUILDER_ASSETS!, name);
    const place = placement(path.basename(this.#netns), 'process', null);
    const child = spawn(podProgram(), [...place, 'exec', program, ...args], { stdio: ['ignore', log, log] });
    closeSync(log);
    this.#children.push(child);
    return child;
  }

  async #startEtcd(): Promise<void> {
    const child = this.#spawn('etcd', [
      ...['--data-dir', path.join(this.#folder, 'etcd'), '--unsafe-no-fsync'],
      ...['--quota-backend-bytes', String(4 * 2 ** 30)],
      ...['--listen-client-urls', ETCD, '--advertise-client-urls', ETCD],
      ...['--listen-peer-urls', 'http://127.0.0.1:0', '--initial-advertise-peer-urls', 'http://127.0.0.1:0'],
      ...['--initial-cluster', 'default=http://127.0.0.1:0'],
    ]);
    await this.#until('etcd', child, async () => (await fetch(`${ETCD}/health`)).ok);
  }

  async #startServer(): Promise<void> {
    const file = (name: string) => path.join(this.#folder, name);
    const child = this.#spawn('kube-apiserver', [
      ...[`--etcd-servers=${ETCD}`, '--bind-address=0.0.0.0', `--advertise-address=${ADDRESS}`],
      ...[
        `--secure-port=${PORT}`,
        `--cert-dir=${this.#folder}`,
        `--service-cluster-ip-range=${SERVICE_RANGES}`,
      ],
      ...[`--token-auth-file=${file('tokens.csv')}`, '--authorization-mode=AlwaysAllow'],
      // Namespaces are no matter here, and limits for one client would be measured instead of a proxy.
      ...[
        '--disable-admission-plugins=ServiceAccount,NamespaceLifecycle',
        '--enable-priority-and-fairness=false',
      ],
      ...[
        '--service-account-issuer=https://kubernetes.default.svc',
        `--service-account-key-file=${file('sa.pub')}`,
      ],
      `--service-account-signing-key-file=${file('sa.key')}`,
    ]);
    const first = '/apis/networking.k8s.io/v1/servicecidrs/kubernetes';
    await this.#until('kube-apiserver', child, async () => {
      for (const at of ['/readyz', first]) if ((await this.#ask('GET', at)).status !== 200) return false;
      return true;
    });
  }

  async #until(name: string, child: ChildProcess, isReady: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + START_MS_MAX;
    while (!(await isReady().catch(() => false))) {
      if (child.exitCode !== null || performance.now() > deadline)
        throw new Error(`${name} did not start: ${lastWords(path.join(this.#folder, `${name}.log`))}`);
      await sleep(100);
    }
  }

  #ask(method: string, at: string, body?: object): Promise<{ status: number; text: string }> {
    const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const headers = { authorization: `Bearer ${this.#token}`, 'content-type': type };
    const ca = readFileSync(path.join(this.#folder, 'apiserver.crt'), 'utf8');
    return new Promise((resolve, reject) => {
      const request = https.request(
        { host: ADDRESS, port: PORT, path: at, method, headers, ca, agent: this.#agent },
        (response) => {
          let text = '';
          response.setEncoding('utf8').on('data', (part: string) => {
            text += part;
          });
          response.on('error', reject).on('end', () => resolve({ status: response.statusCode ?? 0, text }));
        },
      );
      request.on('error', reject).end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  /** A request that must succeed. */
  async call(method: 'POST' | 'PUT' | 'PATCH' | 'DELETE', at: string, body?: object): Promise<void> {
    const { status, text } = await this.#ask(method, at, body);
    if (status >= 300) throw new Error(`${method} ${at}: ${status} ${text.slice(0, 300)}`);
  }

  /** Idempotent. */
  close(): void {
    this.#agent.destroy();
    for (const child of this.#children.splice(0)) child.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Resolves when both processes are gone. */
  async stop(): Promise<void> {
    const gone = this.#children.map((child) => (child.exitCode === null ? once(child, 'exit') : null));
    this.close();
    await Promise.all(gone);
  }
}
