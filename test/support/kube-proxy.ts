/** A real kube-proxy in nftables mode in a network namespace, fed with the objects of one row after the other. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ModelConfig, NodeFacts } from '../../src/model/change.ts';
import type { Address, Cidr } from '../../src/model/records.ts';
import { CONFIG, FACTS, nodeRecord, THIS } from '../model/world.ts';
import { type ApiObject, FakeApiServer, type ResourceName } from './apiserver.ts';
import { objectOf } from './cluster-objects.ts';
import { runIn } from './node-world.ts';
import { NEAR_END, Relay } from './relay.ts';

export interface Situation {
  readonly objects: readonly ApiObject[];
  readonly config: Partial<ModelConfig>;
  readonly facts: NodeFacts;
}

const RESOURCES: Readonly<Record<string, ResourceName>> = {
  Service: 'services',
  EndpointSlice: 'endpointslices',
  Node: 'nodes',
  ServiceCIDR: 'servicecidrs',
};
const API_PORT = 6443;
const SYNC_MS = 15_000;
/** Its frontends tell that all that was written before it is in the kernel; in no range that a row uses. */
const MARKER = { 4: ['10.222.0.1', '10.222.1.1'], 6: ['fd00:222::1', 'fd00:222:1::1'] } as const;

const SERVICE_CIDRS = (cidrs: readonly Cidr[]): ApiObject => ({
  apiVersion: 'networking.k8s.io/v1',
  kind: 'ServiceCIDR',
  metadata: { name: 'configured' },
  spec: { cidrs },
});

function marker(port: number): ApiObject[] {
  const clusterIPs = [MARKER[4][0], MARKER[6][0]];
  const metadata = { namespace: 'marker', name: 'marker' };
  // By its name the endpoints of before do not fit: both watches must have come as far as this.
  const ports = [{ name: `p${port}`, port, protocol: 'TCP' }];
  return [
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata,
      spec: { type: 'ClusterIP', clusterIP: clusterIPs[0], clusterIPs, ipFamilies: ['IPv4', 'IPv6'], ports },
    },
    ...([4, 6] as const).map((family) => ({
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: {
        namespace: 'marker',
        name: `marker-${family}`,
        labels: { 'kubernetes.io/service-name': 'marker' },
      },
      addressType: `IPv${family}`,
      ports,
      endpoints: [{ addresses: [MARKER[family][1]], conditions: { ready: true } }],
    })),
  ];
}

const single = (address: Address) => `${address}/${address.includes(':') ? 128 : 32}`;

/** Node ports nowhere are node ports on addresses that the node does not have. */
function nodePortAddresses({ nodePortAddresses: addresses }: NodeFacts): string[] {
  if (addresses.join() === FACTS.nodePortAddresses.join()) return ['primary'];
  return addresses.length === 0 ? ['203.0.113.250/32', '2001:db8:ffff::1/128'] : addresses.map(single);
}

/** KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1. */
function configurationOf({ config, facts }: Situation, kubeconfig: string): object {
  const { detectMode, clusterCIDRs, bridge, prefix, masqueradeAll } = { ...CONFIG, ...config };
  return {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode: 'nftables',
    hostnameOverride: THIS,
    clientConnection: { kubeconfig, contentType: 'application/json', acceptContentTypes: 'application/json' },
    clusterCIDR: clusterCIDRs.join(),
    detectLocalMode: detectMode,
    detectLocal: { bridgeInterface: bridge, interfaceNamePrefix: prefix },
    nodePortAddresses: nodePortAddresses(facts),
    nftables: { masqueradeAll, minSyncPeriod: '0.01s', syncPeriod: '1h' },
    conntrack: { maxPerCore: 0 },
  };
}

const idOf = ({ metadata: { namespace, name } }: ApiObject) => (namespace ? `${namespace}/${name}` : name);

/** ValidateServiceUpdate() and ValidateEndpointSliceUpdate() of the API server. */
function immutableOf({ addressType, spec }: ApiObject): string {
  return `${addressType} ${(spec as { clusterIP?: string } | undefined)?.clusterIP}`;
}

export class KubeProxy {
  readonly #program: string;
  readonly #namespace: string;
  readonly #dir = mkdtempSync(path.join(tmpdir(), 'kube-proxy-'));
  readonly #api = new FakeApiServer();
  readonly #relay = new Relay(() => this.#api.port);
  readonly #published = new Map<string, ApiObject>();
  #near: ChildProcess | null = null;
  #child: ChildProcess | null = null;
  #runsFor = '';
  #shows = '';
  #port = 1000;

  constructor(program: string, namespace: string) {
    this.#program = program;
    this.#namespace = namespace;
  }

  #spawn(command: readonly string[], log: string): ChildProcess {
    const file = openSync(path.join(this.#dir, log), 'a');
    const child = spawn('nsenter', [`--net=/run/netns/${this.#namespace}`, ...command], {
      stdio: ['ignore', 'pipe', file],
    });
    closeSync(file);
    return child;
  }

  /** Opens the way to the API server; kube-proxy itself starts with the first situation. */
  async open(): Promise<this> {
    await this.#api.listen();
    const socket = path.join(this.#dir, 'api.sock');
    await this.#relay.listen(socket);
    this.#near = this.#spawn([process.execPath, '-e', NEAR_END, socket, String(API_PORT)], 'near.log');
    await once(this.#near.stdout!, 'data');
    const kubeconfig = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'c', cluster: { server: `http://127.0.0.1:${API_PORT}` } }],
      users: [{ name: 'u', user: {} }],
      contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
      'current-context': 'x',
    };
    writeFileSync(path.join(this.#dir, 'kubeconfig'), JSON.stringify(kubeconfig));
    return this;
  }

  /** What it has printed. */
  get log(): string {
    return path.join(this.#dir, 'kube-proxy.log');
  }

  /** What may not change in the API is made anew. */
  #publish(objects: readonly ApiObject[]): void {
    const next = new Map(objects.map((object) => [`${object.kind} ${idOf(object)}`, object]));
    for (const [key, object] of this.#published) {
      const successor = next.get(key);
      if (successor && immutableOf(successor) === immutableOf(object)) continue;
      this.#api.delete(RESOURCES[object.kind!]!, idOf(object));
      this.#published.delete(key);
    }
    for (const [key, object] of next) {
      this.#api.set(RESOURCES[object.kind!]!, object);
      this.#published.set(key, object);
    }
  }

  async #end(): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }

  /** Of each family, the marker with this port and with its endpoint is in the kernel. */
  async #synced(): Promise<void> {
    const limit = Date.now() + SYNC_MS;
    for (const family of [4, 6] as const) {
      const [frontend] = MARKER[family];
      const table = ['nft', 'list', 'map', family === 4 ? 'ip' : 'ip6', 'kube-proxy', 'service-ips'];
      for (;;) {
        const { stdout } = await runIn(this.#namespace, table);
        if (stdout.includes(`${frontend} . tcp . ${this.#port} :`)) break;
        if (this.#child?.exitCode !== null) throw new Error(`kube-proxy ended: see ${this.log}`);
        if (Date.now() > limit) throw new Error(`kube-proxy did not take it up: see ${this.log}`);
        await sleep(20);
      }
    }
  }

  /** Brings kube-proxy to a situation. Resolves to 'same' when it was there already. */
  async bring(situation: Situation): Promise<'changed' | 'same'> {
    const { objects, config } = situation;
    const nodes = objects.filter(({ kind }) => kind === 'Node').map(withAddresses);
    if (nodes.length === 0) nodes.push(objectOf(nodeRecord({ zone: '', podCIDRs: [] })));
    const rest = objects.filter(({ kind }) => kind !== 'Node');
    const { serviceCIDRs } = { ...CONFIG, ...config };
    if (serviceCIDRs.length > 0) rest.push(SERVICE_CIDRS(serviceCIDRs));
    const file = path.join(this.#dir, 'config.json');
    const configuration = configurationOf(situation, path.join(this.#dir, 'kubeconfig'));
    const shows = JSON.stringify([configuration, nodes, rest]);
    if (shows === this.#shows) return 'same';
    // It ends by itself when some things of its Node change: a new one in each such case.
    const cidrs = rest.filter(({ kind }) => kind === 'ServiceCIDR');
    const runsFor = JSON.stringify([configuration, nodes, cidrs]);
    const restarts = runsFor !== this.#runsFor || this.#child?.exitCode !== null;
    if (restarts) await this.#end();
    this.#port++;
    this.#publish([...nodes, ...rest, ...marker(this.#port)]);
    if (restarts) {
      writeFileSync(file, JSON.stringify(configuration));
      await runIn(this.#namespace, ['nft', 'destroy', 'table', 'ip', 'kube-proxy']);
      this.#child = this.#spawn([this.#program, '--config', file, '-v', '2'], 'kube-proxy.log');
      this.#child.stdout!.resume();
      this.#runsFor = runsFor;
    }
    await this.#synced();
    this.#shows = shows;
    return 'changed';
  }

  async close(): Promise<void> {
    await this.#end();
    if (this.#near) {
      this.#near.kill('SIGKILL');
      await once(this.#near, 'exit');
    }
    await this.#relay.close();
    await this.#api.close();
    rmSync(this.#dir, { recursive: true });
  }
}

/** It waits for a Node with addresses before it does anything. */
function withAddresses(node: ApiObject): ApiObject {
  const { status } = objectOf(nodeRecord());
  return { ...node, status: (node as { status?: object }).status ?? status };
}
