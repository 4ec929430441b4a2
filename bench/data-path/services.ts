/** What the nodes of the lanes are to serve: one service that is called, and many that are not. */
import { NftDataplane } from '../../src/dataplane/nft/nft-dataplane.ts';
import type { ModelConfig, NodeFacts } from '../../src/model/change.ts';
import { ClusterModel } from '../../src/model/cluster.ts';
import type { DesiredState } from '../../src/model/desired.ts';
import type { Address, Cidr, Protocol, RecordChange, ServiceRecord } from '../../src/model/records.ts';
import { allRecords, type Size } from '../control-plane/cluster.ts';
import { BACKENDS, CLIENT, PORT } from './lane.ts';

export const CLUSTER_IP = '10.200.0.10' as Address;
export const LOAD_BALANCER_IP = '198.51.100.10' as Address;
export const SERVICE_PORT = 80;

const CONFIG: ModelConfig = {
  detectMode: 'ClusterCIDR',
  clusterCIDRs: ['10.128.0.0/9' as Cidr],
  bridge: '',
  prefix: '',
  nodeName: 'node-0',
  masqueradeAll: false,
  serviceCIDRs: ['10.200.0.0/16' as Cidr, '10.64.0.0/12' as Cidr],
};
const FACTS: NodeFacts = {
  nodePortAddresses: ['10.128.1.1' as Address],
  nodeAddresses: ['10.128.1.1' as Address],
};

/** Prefix lengths in use; the client is in one of the last, so all are looked up. */
const RANGE_LENGTHS = [16, 20, 22, 24, 26, 28, 30, 32];

/** `count` ranges that do not hold the client, and one that does. */
function sourceRanges(count: number): Cidr[] {
  if (count === 0) return [];
  const ranges: Cidr[] = [`${CLIENT}/32` as Cidr];
  for (let i = 1; i < count; i++) {
    const bits = RANGE_LENGTHS[i % RANGE_LENGTHS.length]!;
    // Neighbours at a distance of /16 would run out; each length has its own first octet.
    const value =
      ((20 + (i % RANGE_LENGTHS.length) * 8) << 24) +
      Math.floor(i / RANGE_LENGTHS.length) * 2 ** (32 - Math.max(bits, 22));
    const masked = (value & (-1 << (32 - bits))) >>> 0;
    ranges.push(
      `${masked >>> 24}.${(masked >>> 16) & 255}.${(masked >>> 8) & 255}.${masked & 255}/${bits}` as Cidr,
    );
  }
  return [...new Set(ranges)];
}

function calledService(ranges: number): RecordChange[] {
  const protocols: Protocol[] = ['TCP', 'UDP'];
  const service: ServiceRecord = {
    kind: 'Service',
    namespace: 'bench',
    name: 'called',
    uid: '',
    createdMs: 0,
    type: 'LoadBalancer',
    clusterIPs: [CLUSTER_IP],
    externalIPs: [],
    loadBalancerIPs: [LOAD_BALANCER_IP],
    sourceRanges: sourceRanges(ranges),
    ports: protocols.map((protocol) => ({ name: protocol, protocol, port: SERVICE_PORT, nodePort: 0 })),
    externalPolicy: 'Cluster',
    internalPolicy: 'Cluster',
    affinitySeconds: 0,
    healthCheckNodePort: 0,
    settings: {},
  };
  const endpoint = { nodeName: 'node-0', ready: true, serving: true, terminating: false, zone: '' };
  return [
    { op: 'set', record: service },
    {
      op: 'set',
      record: {
        kind: 'EndpointSlice',
        namespace: 'bench',
        name: 'called-1',
        serviceName: 'called',
        family: 4,
        ports: protocols.map((protocol) => ({ name: protocol, protocol, port: PORT })),
        endpoints: BACKENDS.map((address) => ({
          ...endpoint,
          address: address as Address,
          zoneHints: [],
          nodeHints: [],
        })),
        triggerMs: 0,
      },
    },
  ];
}

export interface Served {
  readonly services: number;
  readonly sourceRanges: number;
}

/** A node with the service that is called and others of ten endpoints each. */
export function stateOf(served: Served): DesiredState {
  const others: Size = {
    name: '',
    services: served.services - 1,
    endpoints: 10,
    families: [4],
    type: 'ClusterIP',
    affinitySeconds: 0,
  };
  const model = new ClusterModel(CONFIG, FACTS);
  model.apply([...allRecords(others), ...calledService(served.sourceRanges)]);
  model.produce();
  return model.state;
}

export async function program(netns: string, served: Served): Promise<void> {
  const dataplane = new NftDataplane({ netns });
  const { refusals } = await dataplane.start(stateOf(served));
  await dataplane.close();
  if (refusals.length > 0) throw new Error(refusals[0]!.reason);
}
