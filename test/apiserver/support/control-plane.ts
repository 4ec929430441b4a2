/**
 * A real etcd and a real kube-apiserver on loopback, as envtest (sigs.k8s.io/controller-runtime) starts them: found
 * through KUBEBUILDER_ASSETS, else on PATH. Everything they write is in a folder that goes with them.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createSign, generateKeyPairSync, randomBytes } from 'node:crypto';
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
import { find, manifests } from '../../deploy/support.ts';

const RBAC = '/apis/rbac.authorization.k8s.io/v1';
const [ACCOUNT, ROLE] = [find(manifests(), 'ServiceAccount'), find(manifests(), 'ClusterRole')];
const AGENT = { name: ACCOUNT.metadata.name, namespace: ACCOUNT.metadata.namespace! };

/** The rights in deploy/, one by one. */
export const RIGHTS: readonly Right[] = (
  ROLE.rules as { apiGroups: string[]; resources: string[]; verbs: string[] }[]
).flatMap(({ apiGroups, resources, verbs }) =>
  apiGroups.flatMap((group) =>
    resources.flatMap((resource) => verbs.map((verb) => ({ verb, group, resource }))),
  ),
);

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

/** The administrator, by the static token file. The agent is the ServiceAccount of deploy/. */
const ADMIN = { name: 'admin', token: randomBytes(16).toString('hex') };
/** A server that says it is ready has yet to make what each object of a test needs. */
const FIRST_OBJECTS = [
  '/readyz',
  '/api/v1/namespaces/default',
  '/api/v1/namespaces/kube-system',
  '/apis/networking.k8s.io/v1/servicecidrs/kubernetes',
];
const ISSUER = 'https://kubernetes.default.svc';
const TOKEN_SECONDS = 24 * 3600;

/** One right: `resource` is the plural, `group` '' for the core group. */
export interface Right {
  readonly verb: string;
  readonly group: string;
  readonly resource: string;
}

export interface KubeconfigOptions {
  /** Default: a token that is good for a day, in the kubeconfig itself. */
  readonly tokenFile?: string;
  /** Another way to the same server, such as a relay. */
  readonly server?: string;
}

export class ControlPlane {
  readonly folder = mkdtempSync(path.join(os.tmpdir(), `triplane-api-${process.pid}-`));
  #extra: readonly string[];
  #agentUid = '';
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

  get port(): number {
    return this.#port;
  }

  get url(): string {
    return `https://127.0.0.1:${this.#port}`;
  }

  get etcdUrl(): string {
    return `http://127.0.0.1:${this.#etcdPort}`;
  }

  /** The path of a kubeconfig for one of the two users, in a file of its own. */
  kubeconfig(user: 'agent' | 'admin', { tokenFile, server = this.url }: KubeconfigOptions = {}): string {
    const file = path.join(this.folder, `${user}-${randomBytes(4).toString('hex')}.kubeconfig`);
    const token = () => (user === 'agent' ? this.token(TOKEN_SECONDS) : ADMIN.token);
    const cluster = { server, 'certificate-authority': path.join(this.folder, 'apiserver.crt') };
    const config = {
      ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'default' },
      clusters: [{ name: 'default', cluster }],
      users: [{ name: user, user: tokenFile ? { tokenFile } : { token: token() } }],
      contexts: [{ name: 'default', context: { cluster: 'default', user } }],
    };
    writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
    return file;
  }

  /** A token of the agent's ServiceAccount, signed with the server's own key as TokenRequest has it, but of any length. */
  token(seconds: number): string {
    const [{ namespace, name }, now] = [AGENT, Math.floor(Date.now() / 1000)];
    const claims = {
      ...{ iss: ISSUER, aud: [ISSUER], sub: `system:serviceaccount:${namespace}:${name}` },
      ...{ iat: now, nbf: now - 60, exp: now + seconds },
      'kubernetes.io': { namespace, serviceaccount: { name, uid: this.#agentUid } },
    };
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const text = `${part({ alg: 'RS256' })}.${part(claims)}`;
    const key = readFileSync(path.join(this.folder, 'sa.key'));
    return `${text}.${createSign('RSA-SHA256').update(text).sign(key).toString('base64url')}`;
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
    write('tokens.csv', `${ADMIN.token},${ADMIN.name},1,"system:masters"\n`);
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

  /** Also after stopServer(): the same state at the same address, and other `extra` flags if they are given. */
  async startServer(extra: readonly string[] = this.#extra): Promise<void> {
    this.#extra = extra;
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
      ...[`--service-account-issuer=${ISSUER}`, `--service-account-key-file=${file('sa.pub')}`],
      ...[`--service-account-signing-key-file=${file('sa.key')}`, '--allow-privileged=true'],
      ...extra,
    ]);
    await this.#until('kube-apiserver', async () => {
      for (const at of FIRST_OBJECTS) if ((await this.call('GET', at)).status !== 200) return false;
      return true;
    });
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

  /** Forgets history up to now, in etcd itself. When it returns, that is done: nothing of this process ran meanwhile. */
  compact(): void {
    const script = path.join(import.meta.dirname, 'compact.mjs');
    const { status, stderr } = spawnSync(process.execPath, [script, this.etcdUrl], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`no compaction: ${stderr}`);
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

  /** Creates the ServiceAccount of deploy/ and what binds it to its rights, and waits until they are in force. */
  async grantAll(): Promise<void> {
    await this.create(`/api/v1/namespaces/${AGENT.namespace}/serviceaccounts`, ACCOUNT);
    const { body } = await this.call(
      'GET',
      `/api/v1/namespaces/${AGENT.namespace}/serviceaccounts/${AGENT.name}`,
    );
    this.#agentUid = body.metadata.uid;
    await this.create(`${RBAC}/clusterroles`, ROLE);
    await this.create(`${RBAC}/clusterrolebindings`, find(manifests(), 'ClusterRoleBinding'));
    await this.#inForce(null);
  }

  /** Leaves the agent all rights of deploy/ but one (null: all), and waits until that is in force. */
  async withhold(missing: Right | null): Promise<void> {
    const rules = RIGHTS.filter((right) => right !== missing).map(({ verb, group, resource }) => ({
      ...{ apiGroups: [group], resources: [resource], verbs: [verb] },
    }));
    const { status } = await this.call('PUT', `${RBAC}/clusterroles/${ROLE.metadata.name}`, {
      ...ROLE,
      rules,
    });
    if (status !== 200) throw new Error(`the rights cannot be changed: ${status}`);
    await this.#inForce(missing);
  }

  /** A right beyond those of deploy/. */
  async grantMore({ verb, group, resource }: Right): Promise<void> {
    const metadata = { name: `${ROLE.metadata.name}-${verb}-${resource}` };
    const rules = [{ apiGroups: [group], resources: [resource], verbs: [verb] }];
    await this.create(`${RBAC}/clusterroles`, { ...ROLE, metadata, rules });
    const binding = find(manifests(), 'ClusterRoleBinding');
    const roleRef = { ...binding.roleRef, name: metadata.name };
    await this.create(`${RBAC}/clusterrolebindings`, { ...binding, metadata, roleRef });
    await this.#untilAllowed({ verb, group, resource }, 'allowed');
  }

  /** The server follows its own roles with a watch, so a little later. */
  async #inForce(missing: Right | null): Promise<void> {
    for (const right of RIGHTS) await this.#untilAllowed(right, right === missing ? 'refused' : 'allowed');
  }

  async #untilAllowed(right: Right, wanted: 'allowed' | 'refused'): Promise<void> {
    const user = `system:serviceaccount:${AGENT.namespace}:${AGENT.name}`;
    const spec = { user, resourceAttributes: right };
    const review = { apiVersion: 'authorization.k8s.io/v1', kind: 'SubjectAccessReview', spec };
    const deadline = performance.now() + START_MS_MAX;
    for (;;) {
      const { body } = await this.create('/apis/authorization.k8s.io/v1/subjectaccessreviews', review);
      if (body.status.allowed === (wanted === 'allowed')) return;
      if (performance.now() > deadline) throw new Error(`${JSON.stringify(right)} is never ${wanted}`);
      await sleep(20);
    }
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
