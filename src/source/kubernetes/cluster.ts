/**
 * Where the API server is and who we are there. @kubernetes/client-node reads the kubeconfig and speaks to
 * exec plugins and token files; it is asked anew for each request, so that whatever rotates is followed.
 */
import { readFile } from 'node:fs/promises';
import type { RequestOptions } from 'node:https';
import path from 'node:path';
import type { KubeConfig } from '@kubernetes/client-node';
import { parse } from 'yaml';
import { TriplaneError } from '../../model/errors.ts';
import { isRaw, oneLine } from '../decode/check.ts';

export interface ClusterOptions {
  /** A kubeconfig file; '' or absent: in-cluster, unless `master` is given. */
  readonly kubeconfigPath?: string;
  /** URL of the API server, in place of the kubeconfig's. */
  readonly master?: string;
}

export interface Cluster {
  /** Of the API server, without a slash at its end. */
  readonly url: string;
  /** TLS material and credentials for one request. Throws when they cannot be had (plugin, file). */
  authorize(): Promise<RequestOptions>;
  /** Forgets all cached credentials and reads the kubeconfig again: for use after a 401. */
  refresh(): Promise<void>;
}

/** An exec plugin that waits for a person would else hold us for ever. */
const CREDENTIALS_MS_MAX = 60_000;

function fail(reason: string, cause?: unknown): never {
  throw new TriplaneError('TP_BAD_CONFIG', reason, { cause });
}

function reasonOf(error: unknown): string {
  return oneLine(error instanceof Error ? error.message : String(error));
}

function loadSource(config: KubeConfig, options: ClusterOptions): void {
  if (options.kubeconfigPath) {
    try {
      config.loadFromFile(options.kubeconfigPath);
    } catch (error) {
      fail(`kubeconfig ${options.kubeconfigPath} cannot be used: ${reasonOf(error)}`, error);
    }
  } else if (options.master) {
    config.loadFromClusterAndUser(
      { name: 'master', server: options.master, skipTLSVerify: false },
      { name: 'nobody' },
    );
  } else if (process.env.KUBERNETES_SERVICE_HOST && process.env.KUBERNETES_SERVICE_PORT) {
    config.loadFromCluster();
  } else
    fail(
      'there is neither --kubeconfig, --master nor --manifests, and this is no pod (KUBERNETES_SERVICE_HOST is not set)',
    );
}

/**
 * `tokenFile` of a user, which client-node does not know (it looks for "token-file") and kubeadm's kubeconfig for
 * kube-proxy relies on; '' when there is none. Relative to the kubeconfig, as client-go has it.
 */
async function tokenFileOf(kubeconfigPath: string, userName: string): Promise<string> {
  const content: unknown = parse(await readFile(kubeconfigPath, 'utf8'));
  const users = isRaw(content) && Array.isArray(content.users) ? (content.users as unknown[]) : [];
  const entry = users.find((one) => isRaw(one) && one.name === userName);
  const user = isRaw(entry) && isRaw(entry.user) ? entry.user : {};
  if (typeof user.tokenFile !== 'string' || user.tokenFile === '') return '';
  return path.resolve(path.dirname(kubeconfigPath), user.tokenFile);
}

interface Loaded {
  readonly config: KubeConfig;
  readonly url: string;
  readonly isProxied: boolean;
  /** '': none. */
  readonly tokenFile: string;
}

/** Loads and completes a configuration so that client-node can work with it. Throws TP_BAD_CONFIG. */
async function load(options: ClusterOptions): Promise<Loaded> {
  const { KubeConfig } = await import('./client-library.ts');
  const config = new KubeConfig();
  loadSource(config, options);
  const context = config.getContextObject(config.getCurrentContext());
  const cluster = config.getCurrentCluster();
  const where = options.kubeconfigPath ? `kubeconfig ${options.kubeconfigPath}` : 'the configuration';
  if (!context || !cluster) fail(`${where} has no usable current context`);
  const server = options.master || cluster.server;
  const url = URL.canParse(server) ? new URL(server) : null;
  if (url?.protocol !== 'https:' && url?.protocol !== 'http:') fail(`${where} has no usable server URL`);
  // client-node wants this word before it speaks plain HTTP, and a user before it looks at the cluster's CA.
  const skipTLSVerify = url.protocol === 'http:' || cluster.skipTLSVerify;
  config.clusters = [{ ...cluster, server, skipTLSVerify }];
  if (!config.getCurrentUser()) {
    config.users = [{ name: 'nobody' }];
    config.contexts = [{ ...context, user: 'nobody' }];
  }
  const tokenFile = options.kubeconfigPath ? await tokenFileOf(options.kubeconfigPath, context.user) : '';
  return { config, url: url.href.replace(/\/+$/, ''), isProxied: Boolean(cluster.proxyUrl), tokenFile };
}

async function bounded<T>(work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new Error(`no credentials within ${CREDENTIALS_MS_MAX} ms`)),
      CREDENTIALS_MS_MAX,
    );
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** Reads the configuration. Throws TriplaneError TP_BAD_CONFIG when it cannot be used. */
export async function openCluster(options: ClusterOptions): Promise<Cluster> {
  let current = await load(options);
  return {
    get url() {
      return current.url;
    },
    async authorize() {
      const wanted: RequestOptions = { headers: {} };
      await bounded(current.config.applyToHTTPSOptions(wanted));
      const headers = wanted.headers as Record<string, string | undefined>;
      // client-go: the file wins over a token beside it. Read for each request, of which there are few: whoever
      // renews it need not wait for us.
      if (current.tokenFile !== '')
        headers.Authorization = `Bearer ${await readFile(current.tokenFile, 'utf8')}`;
      // Token files end with a line end, which a header must not.
      if (headers.Authorization) headers.Authorization = headers.Authorization.trim();
      // client-node's agents keep the certificates they were made with; only a proxy needs one. Without an
      // agent each request has a connection of its own, and no pooled one can have died unnoticed.
      return { ...wanted, agent: current.isProxied ? wanted.agent : false };
    },
    async refresh() {
      current = await load(options);
    },
  };
}
