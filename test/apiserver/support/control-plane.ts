/**
 * A real etcd and a real kube-apiserver on loopback, as envtest (sigs.k8s.io/controller-runtime) starts them: found
 * through KUBEBUILDER_ASSETS, else on PATH. Everything they write is in a folder that goes with them.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  accessSync,
  constants,
  createWriteStream,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import https from 'node:https';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export const BINARIES = ['etcd', 'kube-apiserver'] as const;
const START_MS_MAX = 120_000;

/** The path of a binary, or null. */
export function findBinary(name: string, env: NodeJS.ProcessEnv = process.env): string | null {
  const folders = [env.KUBEBUILDER_ASSETS ?? '', ...(env.PATH ?? '').split(':')].filter(
    (folder) => folder !== '',
  );
  for (const folder of folders) {
    const file = path.join(folder, name);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // The next one.
    }
  }
  return null;
}

/** '' when all are there, else why not. */
export function missingBinaries(env: NodeJS.ProcessEnv = process.env): string {
  const missing = BINARIES.filter((name) => findBinary(name, env) === null);
  return missing.length === 0 ? '' : `needs ${missing.join(' and ')} in KUBEBUILDER_ASSETS or on PATH`;
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, 'close');
  return port;
}

export interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: any Kubernetes object
  readonly body: any;
}

/** Users of the static token file: an administrator, and the agent with no rights but those that a test grants. */
const AGENT = { name: 'triplane-agent', token: randomBytes(16).toString('hex') };
const ADMIN = { name: 'admin', token: randomBytes(16).toString('hex') };

export class ControlPlane {
  readonly folder = mkdtempSync(path.join(os.tmpdir(), `triplane-api-${process.pid}-`));
  readonly #extra: readonly string[];
  #etcd: ChildProcess | null = null;
  #server: ChildProcess | null = null;
  /** 10,000 creations need no 10,000 handshakes. */
  #agent = new https.Agent({ keepAlive: true, maxSockets: 32 });
  #etcdPort = 0;
  #port = 0;

  /** `extra`: further flags of kube-apiserver. */
  constructor(extra: readonly string[] = []) {
    this.#extra = extra;
  }

  get url(): string {
    return `https://127.0.0.1:${this.#port}`;
  }

  get etcdUrl(): string {
    return `http://127.0.0.1:${this.#etcdPort}`;
  }

  /** A kubeconfig for one of the two users. */
  kubeconfig(user: 'agent' | 'admin'): string {
    const file = path.join(this.folder, `${user}.kubeconfig`);
    const { token } = user === 'agent' ? AGENT : ADMIN;
    const cluster = { server: this.url, 'certificate-authority': path.join(this.folder, 'apiserver.crt') };
    const config = {
      ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'default' },
      clusters: [{ name: 'default', cluster }],
      users: [{ name: user, user: { token } }],
      contexts: [{ name: 'default', context: { cluster: 'default', user } }],
    };
    writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
    return file;
  }

  async start(): Promise<this> {
    this.#etcdPort = await freePort();
    this.#port = await freePort();
    this.#prepare();
    await this.#startEtcd();
    await this.startServer();
    return this;
  }

  #prepare(): void {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const write = (name: string, text: string | Buffer) =>
      writeFileSync(path.join(this.folder, name), text, { mode: 0o600 });
    write('sa.key', privateKey.export({ type: 'pkcs8', format: 'pem' }));
    write('sa.pub', publicKey.export({ type: 'spki', format: 'pem' }));
    write('tokens.csv', `${ADMIN.token},${ADMIN.name},1,"system:masters"\n${AGENT.token},${AGENT.name},2\n`);
  }

  async #startEtcd(): Promise<void> {
    this.#etcd = this.#spawn('etcd', [
      ...['--data-dir', path.join(this.folder, 'etcd'), '--unsafe-no-fsync'],
      ...['--listen-client-urls', this.etcdUrl, '--advertise-client-urls', this.etcdUrl],
      ...['--listen-peer-urls', 'http://127.0.0.1:0', '--initial-advertise-peer-urls', 'http://127.0.0.1:0'],
      ...['--initial-cluster', 'default=http://127.0.0.1:0'],
    ]);
    await this.#until('etcd', async () => (await fetch(`${this.etcdUrl}/health`)).ok);
  }

  /** Also after stopServer(): the same state at the same address. */
  async startServer(): Promise<void> {
    const file = (name: string) => path.join(this.folder, name);
    this.#server = this.#spawn('kube-apiserver', [
      `--etcd-servers=${this.etcdUrl}`,
      ...['--bind-address=127.0.0.1', '--advertise-address=127.0.0.1', `--secure-port=${this.#port}`],
      ...[
        `--cert-dir=${this.folder}`,
        `--token-auth-file=${file('tokens.csv')}`,
        '--authorization-mode=RBAC',
      ],
      ...['--service-cluster-ip-range=10.128.0.0/14', '--disable-admission-plugins=ServiceAccount'],
      ...[
        '--service-account-issuer=https://kubernetes.default.svc',
        `--service-account-key-file=${file('sa.pub')}`,
      ],
      ...[`--service-account-signing-key-file=${file('sa.key')}`, '--allow-privileged=true'],
      ...this.#extra,
    ]);
    await this.#until('kube-apiserver', async () => (await this.call('GET', '/readyz')).status === 200);
  }

  async stopServer(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.#agent.destroy();
    this.#agent = new https.Agent({ keepAlive: true, maxSockets: 32 });
    await end(this.#server, signal);
    this.#server = null;
  }

  async stop(): Promise<void> {
    await this.stopServer();
    await end(this.#etcd, 'SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Forgets history up to now, in etcd itself (its HTTP gateway, /v3/kv). */
  async compact(): Promise<void> {
    const post = async (at: string, body: object) =>
      (
        await fetch(`${this.etcdUrl}${at}`, { method: 'POST', body: JSON.stringify(body) })
      ).json() as Promise<{
        header?: { revision: string };
      }>;
    const { header } = await post('/v3/kv/range', { key: Buffer.from('\0').toString('base64'), limit: 1 });
    await post('/v3/kv/compaction', { revision: header!.revision, physical: true });
  }

  /** A request as the administrator. */
  call(method: string, at: string, body?: object): Promise<Answer> {
    const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const headers = { authorization: `Bearer ${ADMIN.token}`, 'content-type': type };
    let ca: string;
    try {
      ca = readFileSync(path.join(this.folder, 'apiserver.crt'), 'utf8');
    } catch {
      return Promise.reject(new Error('the server has no certificate yet'));
    }
    return new Promise((resolve, reject) => {
      const request = https.request(
        `${this.url}${at}`,
        { method, headers, ca, agent: this.#agent },
        (response) => {
          let text = '';
          response.setEncoding('utf8').on('data', (part: string) => {
            text += part;
          });
          response.on('error', reject).on('end', () => {
            const json = text.startsWith('{') ? JSON.parse(text) : text;
            resolve({ status: response.statusCode ?? 0, body: json });
          });
        },
      );
      request.on('error', reject).end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  /** Creates, and throws what the server says against it. */
  async create(at: string, object: object): Promise<Answer> {
    const answer = await this.call('POST', at, object);
    if (answer.status !== 201)
      throw new Error(`POST ${at}: ${answer.status} ${JSON.stringify(answer.body).slice(0, 300)}`);
    return answer;
  }

  /** Grants the agent exactly these rules, in place of those before. */
  async grant(rules: readonly object[]): Promise<void> {
    const base = '/apis/rbac.authorization.k8s.io/v1';
    const apiVersion = 'rbac.authorization.k8s.io/v1';
    const role = { apiVersion, kind: 'ClusterRole', metadata: { name: 'agent' }, rules };
    if ((await this.call('PUT', `${base}/clusterroles/agent`, role)).status < 300) return;
    await this.create(`${base}/clusterroles`, role);
    await this.create(`${base}/clusterrolebindings`, {
      ...{ apiVersion, kind: 'ClusterRoleBinding', metadata: { name: 'agent' } },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'agent' },
      subjects: [{ apiGroup: 'rbac.authorization.k8s.io', kind: 'User', name: AGENT.name }],
    });
  }

  #spawn(name: string, args: readonly string[]): ChildProcess {
    const log = createWriteStream(path.join(this.folder, `${name}.log`), { flags: 'a' });
    const child = spawn(findBinary(name)!, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout!.pipe(log, { end: false });
    child.stderr!.pipe(log, { end: false });
    return child;
  }

  async #until(name: string, isReady: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + START_MS_MAX;
    for (;;) {
      const child = name === 'etcd' ? this.#etcd : this.#server;
      const isOver = child?.exitCode !== null || performance.now() > deadline;
      if (!isOver && (await isReady().catch(() => false))) return;
      if (isOver) {
        const said = readFileSync(path.join(this.folder, `${name}.log`), 'utf8')
          .trim()
          .split('\n')
          .slice(-5);
        throw new Error(`${name} did not start: ${said.join(' | ')}`);
      }
      await sleep(100);
    }
  }
}

async function end(child: ChildProcess | null, signal: NodeJS.Signals): Promise<void> {
  if (!child || child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill(signal);
  await gone;
}
