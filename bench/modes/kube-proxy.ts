/** A real kube-proxy in the node under test, fed by the API server. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { labDir, podProgram } from '../../src/lab/paths.ts';
import type { Place } from '../../src/lab/place.ts';
import { openLog, placement } from '../../src/lab/pod-process.ts';
import { isExecutable } from './api-server.ts';
import { lastWords } from './last-words.ts';

export const KUBE_PROXY_MODES = ['kube-proxy-nftables', 'kube-proxy-iptables'] as const;
export type KubeProxyMode = (typeof KUBE_PROXY_MODES)[number];

export function isKubeProxy(mode: string): mode is KubeProxyMode {
  return (KUBE_PROXY_MODES as readonly string[]).includes(mode);
}

const TOOLS: Readonly<Record<KubeProxyMode, readonly string[]>> = {
  'kube-proxy-nftables': ['nft'],
  'kube-proxy-iptables': ['iptables', 'iptables-save', 'iptables-restore'],
};

/** '' when all that this mode runs is on PATH, else what is not. */
export function missingTools(mode: KubeProxyMode, env: NodeJS.ProcessEnv = process.env): string {
  const folders = (env.PATH ?? '').split(':').filter((folder) => folder !== '');
  const missing = TOOLS[mode].filter(
    (name) => !folders.some((folder) => isExecutable(path.join(folder, name))),
  );
  return missing.length === 0 ? '' : `needs ${missing.join(', ')} on PATH`;
}

export interface KubeProxyOptions {
  readonly program: string;
  readonly mode: KubeProxyMode;
  readonly kubeconfig: string;
  readonly clusterCidrs: readonly string[];
  readonly lab: string;
}

/**
 * KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1. Its own defaults but for minSyncPeriod: that is 1 s, and
 * with it each change after another would wait for that. Here it begins at once, which is as quick as it can be.
 */
function configurationOf({ mode, kubeconfig, clusterCidrs }: KubeProxyOptions, node: string): object {
  const how = { minSyncPeriod: '0s', syncPeriod: '1h' };
  return {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode: mode.replace('kube-proxy-', ''),
    hostnameOverride: node,
    clientConnection: { kubeconfig },
    clusterCIDR: clusterCidrs.join(),
    detectLocalMode: 'ClusterCIDR',
    nftables: how,
    iptables: { ...how, localhostNodePorts: false },
    conntrack: { maxPerCore: 0 },
  };
}

export class KubeProxy {
  readonly #child: ChildProcess;
  readonly #log: string;

  constructor(node: Place, options: KubeProxyOptions) {
    const folder = path.join(labDir(options.lab), 'kube-proxy');
    mkdirSync(folder, { recursive: true });
    const file = path.join(folder, 'config.json');
    writeFileSync(file, JSON.stringify(configurationOf(options, node.name)));
    this.#log = path.join(folder, 'log');
    const log = openLog(this.#log);
    const command = [options.program, '--config', file, '--v=2'];
    const place = placement(node.namespace, 'process', null);
    this.#child = spawn(podProgram(), [...place, 'exec', ...command], { stdio: ['ignore', log, log] });
    closeSync(log);
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Never resolves while it runs; throws its last words when it ends by itself. */
  async ended(): Promise<never> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit');
    throw new Error(lastWords(this.#log));
  }

  /** Its rules stay. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    await gone;
  }
}
