/** Service (v1) -> ServiceRecord, with the rules of kube-proxy's serviceport.go. */
import { familyOf, parseCidr } from '../../model/address.ts';
import type { Address, Cidr, ServicePortRecord, ServiceRecord } from '../../model/records.ts';
import { NEVER_BACKEND, NEVER_SERVED, readAddress, readCidr, readEntries, unique } from './addresses.ts';
import { integerAt, isRaw, listAt, objectAt, type Raw, Refused, show, textAt, wordAt } from './check.ts';
import type { Decoded } from './decoded.ts';
import { guarded, type Meta, readSettings } from './identity.ts';
import { intern } from './intern.ts';
import { isLabel } from './names.ts';

/** Whoever sets it (to anything) takes the service away from kube-proxy, and so from us. */
const PROXY_NAME_LABEL = 'service.kubernetes.io/service-proxy-name';
/** The API server's default for ClientIP affinity. */
const AFFINITY_SECONDS_DEFAULT = 10_800;
const AFFINITY_SECONDS_MAX = 86_400;
const PORT = { min: 1, max: 65_535 };
const PORT_OR_NONE = { min: 0, max: 65_535 };
const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;
const POLICIES = ['Cluster', 'Local'] as const;

function readPort(value: unknown, path: string): ServicePortRecord {
  if (!isRaw(value)) throw new Refused(`${path} is ${show(value)}, not an object`);
  const name = textAt(value, 'name', `${path}.name`);
  if (name !== '' && !isLabel(name)) {
    throw new Refused(`${path}.name is ${show(name)}, not an RFC 1123 label`);
  }
  const port = integerAt(value, 'port', `${path}.port`, PORT);
  if (port === null) throw new Refused(`${path}.port is missing`);
  return {
    name: intern(name),
    protocol: wordAt(value, 'protocol', `${path}.protocol`, PROTOCOLS, 'TCP'),
    port,
    nodePort: integerAt(value, 'nodePort', `${path}.nodePort`, PORT_OR_NONE) ?? 0,
  };
}

/** A bad port refuses the service, as the API server does: half a service misleads more than none. */
function readPorts(spec: Raw): readonly ServicePortRecord[] {
  const ports = listAt(spec, 'ports', 'spec.ports').map((port, i) => readPort(port, `spec.ports[${i}]`));
  const names = new Set<string>();
  const numbers = new Set<string>();
  for (const [i, port] of ports.entries()) {
    if (port.name === '' && ports.length > 1) {
      throw new Refused(`spec.ports[${i}].name is missing: each of several ports needs a name`);
    }
    if (names.has(port.name)) throw new Refused(`spec.ports[${i}].name ${show(port.name)} occurs twice`);
    names.add(port.name);
    const number = `${port.port}/${port.protocol}`;
    if (numbers.has(number)) throw new Refused(`spec.ports[${i}] repeats port ${number}`);
    numbers.add(number);
  }
  return ports;
}

/**
 * A NodePort service that becomes a ClusterIP one loses its node ports: the API server takes them out. What a
 * manifest has left behind is named, and the service changes its type all the same.
 */
function withoutNodePorts(ports: readonly ServicePortRecord[], faults: string[]): ServicePortRecord[] {
  return ports.map((port, i) => {
    if (port.nodePort === 0) return port;
    faults.push(`spec.ports[${i}].nodePort ${port.nodePort} does not count: spec.type is ClusterIP`);
    return { ...port, nodePort: 0 };
  });
}

function readClusterIPs(spec: Raw): readonly Address[] {
  const list = listAt(spec, 'clusterIPs', 'spec.clusterIPs');
  const single = textAt(spec, 'clusterIP', 'spec.clusterIP');
  if (list.length === 0) {
    // From the API this cannot be; a manifest has no API server that would allocate one.
    if (single === '') throw new Refused('spec.clusterIP is missing, and nothing here allocates one');
    return [readAddress(single, 'spec.clusterIP', NEVER_SERVED)];
  }
  if (list.length > 2) throw new Refused(`spec.clusterIPs has ${list.length} entries, not 1 or 2`);
  const addresses = list.map((entry, i) => readAddress(entry, `spec.clusterIPs[${i}]`, NEVER_SERVED));
  if (addresses.length === 2 && familyOf(addresses[0]!) === familyOf(addresses[1]!)) {
    throw new Refused('spec.clusterIPs has two addresses of one family');
  }
  if (single !== '' && readAddress(single, 'spec.clusterIP', NEVER_SERVED) !== addresses[0]) {
    throw new Refused('spec.clusterIP differs from spec.clusterIPs[0]');
  }
  return addresses;
}

/** Ingress points with an IP that is a virtual one. A hostname or ipMode Proxy is no business of a node. */
function readIngress(entry: unknown, path: string): Address | null {
  if (!isRaw(entry)) throw new Refused(`${path} is ${show(entry)}, not an object`);
  const ip = textAt(entry, 'ip', `${path}.ip`);
  const mode = textAt(entry, 'ipMode', `${path}.ipMode`);
  if (ip === '' || (mode !== '' && mode !== 'VIP')) return null;
  return readAddress(ip, `${path}.ip`, NEVER_SERVED);
}

/** No packet has the unspecified address as its source: a range that admits nobody. */
const NOBODY = [parseCidr('0.0.0.0/32')!, parseCidr('::/128')!] as const;

/**
 * kube-proxy leaves malformed ranges out, so that a service of which all ranges (of one family) are
 * malformed is open to everybody. Here a refused range never opens anything: a family that is left without
 * a range, once a range has been refused, gets the range of nobody.
 */
function readSourceRanges(spec: Raw, faults: string[]): readonly Cidr[] {
  const path = 'spec.loadBalancerSourceRanges';
  const before = faults.length;
  const list = listAt(spec, 'loadBalancerSourceRanges', path);
  // As kube-proxy: an empty string says nothing, and is no attempt to restrict anybody.
  const read = (entry: unknown, entryPath: string) =>
    typeof entry === 'string' && entry.trim() === '' ? null : readCidr(entry, entryPath);
  const ranges = unique(readEntries(list, path, faults, read));
  if (faults.length === before) return ranges;
  const shut = NOBODY.filter((nobody) => !ranges.some((range) => familyOf(range) === familyOf(nobody)));
  return [...ranges, ...shut];
}

function readAffinity(spec: Raw): number {
  if (wordAt(spec, 'sessionAffinity', 'spec.sessionAffinity', ['None', 'ClientIP'], 'None') === 'None')
    return 0;
  const path = 'spec.sessionAffinityConfig';
  const clientIP = objectAt(objectAt(spec, 'sessionAffinityConfig', path), 'clientIP', `${path}.clientIP`);
  const bounds = { min: 1, max: AFFINITY_SECONDS_MAX };
  return (
    integerAt(clientIP, 'timeoutSeconds', `${path}.clientIP.timeoutSeconds`, bounds) ??
    AFFINITY_SECONDS_DEFAULT
  );
}

function isIgnored(meta: Meta, spec: Raw): boolean {
  if (Object.hasOwn(meta.labels, PROXY_NAME_LABEL)) return true;
  if (spec.type === 'ExternalName' || spec.clusterIP === 'None') return true;
  return Array.isArray(spec.clusterIPs) && spec.clusterIPs[0] === 'None';
}

function readService(meta: Meta, spec: Raw): Decoded<ServiceRecord> {
  const faults: string[] = [];
  const type = wordAt(spec, 'type', 'spec.type', ['ClusterIP', 'NodePort', 'LoadBalancer'], 'ClusterIP');
  const externalIPs = readEntries(
    listAt(spec, 'externalIPs', 'spec.externalIPs'),
    'spec.externalIPs',
    faults,
    (
      entry,
      path,
      // An empty string is what some generators leave behind; kube-proxy passes over it in silence.
    ) => (entry === '' ? null : readAddress(entry, path, NEVER_BACKEND)),
  );
  const balancer = objectAt(objectAt(meta.raw, 'status', 'status'), 'loadBalancer', 'status.loadBalancer');
  const ingressPath = 'status.loadBalancer.ingress';
  const ingress = readEntries(listAt(balancer, 'ingress', ingressPath), ingressPath, faults, readIngress);
  const ports = type === 'ClusterIP' ? withoutNodePorts(readPorts(spec), faults) : readPorts(spec);
  // The policy counts only where there is external traffic (kube-proxy's ExternalPolicyLocal).
  const policy = wordAt(spec, 'externalTrafficPolicy', 'spec.externalTrafficPolicy', POLICIES, 'Cluster');
  const external = type !== 'ClusterIP' || externalIPs.length > 0 ? policy : 'Cluster';
  const healthPort = integerAt(spec, 'healthCheckNodePort', 'spec.healthCheckNodePort', PORT_OR_NONE) ?? 0;
  const record: ServiceRecord = {
    kind: 'Service',
    namespace: meta.namespace,
    name: meta.name,
    uid: meta.uid,
    createdMs: meta.createdMs,
    type,
    clusterIPs: readClusterIPs(spec),
    externalIPs: unique(externalIPs),
    loadBalancerIPs: unique(ingress),
    sourceRanges: readSourceRanges(spec, faults),
    ports,
    externalPolicy: external,
    internalPolicy: wordAt(spec, 'internalTrafficPolicy', 'spec.internalTrafficPolicy', POLICIES, 'Cluster'),
    affinitySeconds: readAffinity(spec),
    healthCheckNodePort: type === 'LoadBalancer' && external === 'Local' ? healthPort : 0,
    settings: readSettings(meta, faults),
  };
  return { outcome: 'record', record, faults };
}

/** A Service as the API or a manifest has it. Never throws. */
export function decodeService(raw: unknown): Decoded<ServiceRecord> {
  return guarded('Service', raw, (meta) => {
    const spec = objectAt(meta.raw, 'spec', 'spec');
    if (isIgnored(meta, spec)) return { outcome: 'ignored', kind: 'Service', key: meta.key };
    return readService(meta, spec);
  });
}
