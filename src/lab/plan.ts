/**
 * What a lab looks like: from what the caller asks for (LabSpec) to every name and address in it (LabPlan).
 * Pure; nothing here touches the machine.
 */
import type { Cidr, Family } from '../model/records.ts';

export interface NodeSpec {
  /** Default name of its namespace and of its Node object. */
  readonly name: string;
  /** Label topology.kubernetes.io/zone. */
  readonly zone?: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** 'none': a node of the cluster on which no agent runs. Default 'run'. */
  readonly agent?: 'run' | 'none';
}

export interface PodSpec {
  readonly name: string;
  readonly node: string;
  /** Default ['tcp:80', 'tcp:8080', 'udp:80'] (none on the host network); 'sctp:PORT' where the kernel has it. */
  readonly serve?: readonly string[];
  /** 'host': the process runs in the node's own namespace and has the node's addresses. Default 'pod'. */
  readonly network?: 'pod' | 'host';
  readonly labels?: Readonly<Record<string, string>>;
}

export interface LabSpec {
  /** Default 'lab'. Labs of different names stand side by side. */
  readonly name?: string;
  /** Default: cp, worker1, worker2, worker3. */
  readonly nodes?: readonly NodeSpec[];
  /** Default: net-pod on the first node and webpod1.. on each other one. */
  readonly pods?: readonly PodSpec[];
  /** Default [4, 6]; the first is the primary one. */
  readonly families?: readonly Family[];
  /** 'routed' (default): a /32 and /128 on a veth of its own. 'bridged': on a bridge cni0 in each node. */
  readonly podNetwork?: 'routed' | 'bridged';
  /** 'off' makes every packet carry a full checksum, as XDP needs to see it. Default 'on'. */
  readonly txChecksum?: 'on' | 'off';
  /** 'per-pod': a cgroup v2 directory for each node, and in it one for each pod. Default 'none'. */
  readonly cgroups?: 'none' | 'per-pod';
  /** net.ipv4.ip_local_port_range everywhere in the lab. */
  readonly localPortRange?: readonly [number, number];
  /** 'process' (default): ends with the process that made it. 'kept': stays until `lab down`. */
  readonly lifetime?: 'process' | 'kept';
}

/** One text per family; a family that the lab does not have is absent. */
export type PerFamily = Readonly<Partial<Record<Family, string>>>;

export interface NodePlan {
  readonly name: string;
  readonly namespace: string;
  readonly index: number;
  readonly zone: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly agent: 'run' | 'none';
  readonly addresses: PerFamily;
  readonly podCidrs: PerFamily;
}

export interface PodPlan {
  readonly name: string;
  readonly node: string;
  readonly namespace: string;
  readonly network: 'pod' | 'host';
  readonly serve: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly addresses: PerFamily;
  /** The node's end of its veth; empty on the host network. */
  readonly device: string;
  readonly mac: string;
}

export interface LabPlan {
  readonly name: string;
  readonly families: readonly Family[];
  readonly podNetwork: 'routed' | 'bridged';
  readonly txChecksum: 'on' | 'off';
  readonly cgroups: 'none' | 'per-pod';
  readonly localPortRange: readonly [number, number] | null;
  readonly lifetime: 'process' | 'kept';
  readonly fabric: { readonly namespace: string; readonly addresses: PerFamily };
  readonly client: {
    readonly namespace: string;
    readonly addresses: PerFamily;
    readonly gateways: PerFamily;
  };
  readonly nodes: readonly NodePlan[];
  readonly pods: readonly PodPlan[];
}

export const CLUSTER_CIDRS: Readonly<Record<Family, Cidr>> = {
  4: '10.10.0.0/16' as Cidr,
  6: 'fd00:10::/48' as Cidr,
};
export const SERVICE_CIDRS: Readonly<Record<Family, Cidr>> = {
  4: '10.200.1.0/24' as Cidr,
  6: 'fd00:200::/112' as Cidr,
};
/** Where the lab takes load-balancer and external addresses from; nothing in the lab has them of its own. */
export const BALANCER_CIDRS: Readonly<Record<Family, Cidr>> = {
  4: '198.51.100.0/24' as Cidr,
  6: 'fd00:1b::/112' as Cidr,
};
const DEFAULT_PORTS = ['tcp:80', 'tcp:8080', 'udp:80'] as const;
const MAX_NODES = 200;
const MAX_PODS_PER_NODE = 250;

/** The service address with this host number (1 to 254) in a family. */
export function serviceAddress(family: Family, host: number): string {
  return family === 4 ? `10.200.1.${host}` : `fd00:200::${host.toString(16)}`;
}

/** A load-balancer or external address with this host number (1 to 254) in a family. */
export function balancerAddress(family: Family, host: number): string {
  return family === 4 ? `198.51.100.${host}` : `fd00:1b::${host.toString(16)}`;
}

function underlay(family: Family, host: number): string {
  return family === 4 ? `172.30.0.${host}` : `fd00:30::${host.toString(16)}`;
}

/** The pod network's address `host` on node `index`; canonical as in RFC 5952. */
function podAddress(family: Family, index: number, host: number): string {
  if (family === 4) return `10.10.${index}.${host}`;
  return index === 0
    ? `fd00:10::${host.toString(16)}`
    : `fd00:10:0:${index.toString(16)}::${host.toString(16)}`;
}

function podCidr(family: Family, index: number): string {
  if (family === 4) return `10.10.${index}.0/24`;
  return index === 0 ? 'fd00:10::/64' : `fd00:10:0:${index.toString(16)}::/64`;
}

/** The gateway of a node's pod bridge. */
export function bridgeAddress(family: Family, index: number): string {
  return podAddress(family, index, 1);
}

export function perFamily(families: readonly Family[], text: (family: Family) => string): PerFamily {
  return Object.fromEntries(families.map((family) => [family, text(family)]));
}

/** The addresses of a place in the order of the lab's families. */
export function listed(addresses: PerFamily, families: readonly Family[]): string[] {
  return families.flatMap((family) => addresses[family] ?? []);
}

/** Names become namespaces, devices, files and answers on the wire: a DNS label, and not too long. */
function checkName(name: string, what: string): void {
  if (!/^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/.test(name)) {
    throw new RangeError(
      `${what} "${name}": at most 40 lower-case letters, digits and dashes, as in a DNS label`,
    );
  }
}

export function namespaceOf(lab: string, place: string): string {
  return `triplane-${lab}-${place}`;
}

export function planNodes(lab: string, specs: readonly NodeSpec[], families: readonly Family[]): NodePlan[] {
  if (specs.length < 1 || specs.length > MAX_NODES) throw new RangeError(`a lab has 1 to ${MAX_NODES} nodes`);
  return specs.map((spec, index) => {
    checkName(spec.name, 'node');
    return {
      name: spec.name,
      namespace: namespaceOf(lab, spec.name),
      index,
      zone: spec.zone ?? '',
      labels: spec.labels ?? {},
      agent: spec.agent ?? 'run',
      addresses: perFamily(families, (family) => underlay(family, index + 2)),
      podCidrs: perFamily(families, (family) => podCidr(family, index)),
    };
  });
}

/** Device names hold 15 characters: what is longer is named by its place. */
function deviceOf(pod: string, index: number, host: number): string {
  return pod.length <= 11 ? `veth${pod}` : `vethp${index}x${host}`;
}

/** The lowest host number (from 2) that no pod of this node has. */
function freeHost(node: NodePlan, pods: readonly PodPlan[]): number {
  const taken = new Set(
    pods.filter((pod) => pod.network === 'pod' && pod.node === node.name).map((pod) => pod.mac),
  );
  for (let host = 2; host < MAX_PODS_PER_NODE + 2; host++)
    if (!taken.has(macOf(node.index, host))) return host;
  throw new RangeError(`node ${node.name} is full: ${MAX_PODS_PER_NODE} pods`);
}

/** 0a:58 and the IPv4 address, as CNI's own plugins make them. */
function macOf(index: number, host: number): string {
  return ['0a', '58', '0a', '0a', hexByte(index), hexByte(host)].join(':');
}

function hexByte(n: number): string {
  return n.toString(16).padStart(2, '0');
}

/** Plans one more pod beside `pods`. Throws a RangeError for a name that is taken or an unknown node. */
export function planPod(
  lab: string,
  spec: PodSpec,
  nodes: readonly NodePlan[],
  pods: readonly PodPlan[],
  families: readonly Family[],
): PodPlan {
  checkName(spec.name, 'pod');
  const node = nodes.find((n) => n.name === spec.node);
  if (!node) throw new RangeError(`pod ${spec.name}: there is no node ${spec.node}`);
  const taken = ['fabric', 'client', ...nodes.map((n) => n.name), ...pods.map((p) => p.name)];
  if (taken.includes(spec.name)) throw new RangeError(`pod ${spec.name}: the name is taken`);
  const common = { name: spec.name, node: spec.node, labels: spec.labels ?? {} };
  if (spec.network === 'host') {
    const serve = spec.serve ?? [];
    return {
      ...common,
      network: 'host',
      serve,
      namespace: node.namespace,
      addresses: node.addresses,
      device: '',
      mac: '',
    };
  }
  const host = freeHost(node, pods);
  return {
    ...common,
    network: 'pod',
    serve: spec.serve ?? DEFAULT_PORTS,
    namespace: namespaceOf(lab, spec.name),
    addresses: perFamily(families, (family) => podAddress(family, node.index, host)),
    device: deviceOf(spec.name, node.index, host),
    mac: macOf(node.index, host),
  };
}

/** cp and `workers` workers. */
export function defaultNodes(workers: number): NodeSpec[] {
  return [{ name: 'cp' }, ...Array.from({ length: workers }, (_, i) => ({ name: `worker${i + 1}` }))];
}

/** net-pod on the first node, webpod1.. (label app=web) on each other one. */
export function defaultPods(nodes: readonly NodeSpec[]): PodSpec[] {
  const [first, ...others] = nodes;
  const web = others.map((node, i) => ({ name: `webpod${i + 1}`, node: node.name, labels: { app: 'web' } }));
  return first ? [{ name: 'net-pod', node: first.name, labels: { app: 'net' } }, ...web] : web;
}

/** Throws a RangeError that names what cannot be. */
export function planLab(spec: LabSpec): LabPlan {
  const name = spec.name ?? 'lab';
  checkName(name, 'lab');
  const families = [...new Set(spec.families ?? [4, 6])] as Family[];
  if (!families.length) throw new RangeError('a lab needs a family: 4, 6 or both');
  const nodeSpecs = spec.nodes ?? defaultNodes(3);
  if (new Set(nodeSpecs.map((n) => n.name)).size !== nodeSpecs.length)
    throw new RangeError('two nodes have the same name');
  if (nodeSpecs.some((n) => n.name === 'fabric' || n.name === 'client'))
    throw new RangeError('no node may be called fabric or client');
  const nodes = planNodes(name, nodeSpecs, families);
  const pods: PodPlan[] = [];
  for (const pod of spec.pods ?? defaultPods(nodeSpecs)) pods.push(planPod(name, pod, nodes, pods, families));
  return {
    name,
    families,
    nodes,
    pods,
    podNetwork: spec.podNetwork ?? 'routed',
    txChecksum: spec.txChecksum ?? 'on',
    cgroups: spec.cgroups ?? 'none',
    localPortRange: spec.localPortRange ?? null,
    lifetime: spec.lifetime ?? 'process',
    fabric: { namespace: namespaceOf(name, 'fabric'), addresses: perFamily(families, (f) => underlay(f, 1)) },
    client: {
      namespace: namespaceOf(name, 'client'),
      addresses: perFamily(families, (f) => (f === 4 ? '192.0.2.10' : 'fd00:c::10')),
      gateways: perFamily(families, (f) => (f === 4 ? '192.0.2.1' : 'fd00:c::1')),
    },
  };
}
