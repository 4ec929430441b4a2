import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ModelChange, NodeFacts } from '../../src/model/change.ts';
import { ClusterModel } from '../../src/model/cluster.ts';
import type { DesiredNode, DesiredService } from '../../src/model/desired.ts';
import { type ClusterRecord, keyOf, type PodRecord, type RecordChange } from '../../src/model/records.ts';
import { arbitraryChange, arbitraryConfig, arbitraryFacts } from './arbitrary.ts';
import {
  CONFIG,
  endpoint,
  FACTS,
  ip,
  modelOf,
  NOT_READY,
  net,
  nodeRecord,
  service,
  slice,
  TERMINATING,
} from './world.ts';

const set = (...records: ClusterRecord[]): RecordChange[] => records.map((record) => ({ op: 'set', record }));

function keysOf(change: ModelChange) {
  return { set: change.set.map(({ key }) => key).sort(), remove: [...change.remove].sort() };
}

function produceAfter(model: ClusterModel, ...changes: RecordChange[]): ModelChange {
  model.apply(changes);
  return model.produce();
}

const SERVICES_OF = (model: ClusterModel) => [...model.state.services].sort(([a], [b]) => (a < b ? -1 : 1));

function everythingOf(model: ClusterModel) {
  return {
    services: SERVICES_OF(model),
    node: model.state.node,
    problems: [...model.problems].sort(),
    health: [...model.healthChecks].sort(),
  };
}

type Step = { changes: RecordChange[]; facts: NodeFacts | null; produce: boolean };
const arbitraryStep: fc.Arbitrary<Step> = fc.record({
  changes: fc.array(arbitraryChange, { maxLength: 4 }),
  facts: fc.option(arbitraryFacts, { freq: 6 }),
  produce: fc.boolean(),
});

describe('any history', () => {
  it('ends in the state that a fresh model makes of the final records, in any order', () => {
    fc.assert(
      fc.property(
        arbitraryConfig,
        arbitraryFacts,
        fc.array(arbitraryStep, { maxLength: 12 }),
        fc.infiniteStream(fc.nat()),
        (config, firstFacts, steps, random) => {
          const model = new ClusterModel(config, firstFacts);
          const records = new Map<string, ClusterRecord>();
          let facts = firstFacts;
          for (const step of steps) {
            model.apply(step.changes);
            for (const change of step.changes) {
              if (change.op === 'set')
                records.set(`${change.record.kind} ${keyOf(change.record)}`, change.record);
              // What is known of this node stays when its object is gone.
              else if (change.kind !== 'Node') records.delete(`${change.kind} ${change.key}`);
            }
            if (step.facts) model.setFacts(step.facts);
            facts = step.facts ?? facts;
            if (step.produce) model.produce();
          }
          model.produce();
          expect(model.isDirty).toBe(false);

          const shuffled = [...records.values()].map((record) => ({
            record,
            at: random.next().value as number,
          }));
          shuffled.sort((a, b) => a.at - b.at);
          const fresh = new ClusterModel(config, facts);
          fresh.apply(set(...shuffled.map(({ record }) => record)));
          fresh.produce();
          expect(everythingOf(model)).toEqual(everythingOf(fresh));
        },
      ),
      { numRuns: 400 },
    );
  });

  it('gives changes that add up to the state, and none that changes nothing', () => {
    fc.assert(
      fc.property(arbitraryConfig, fc.array(arbitraryStep, { maxLength: 8 }), (config, steps) => {
        const model = new ClusterModel(config, FACTS);
        const mirror = new Map<string, DesiredService>();
        let node: DesiredNode = model.state.node;
        for (const step of steps) {
          model.apply(step.changes);
          if (step.facts) model.setFacts(step.facts);
          const before = new Map(mirror);
          const change = model.produce();
          for (const one of change.set) {
            expect(one).not.toEqual(before.get(one.key));
            mirror.set(one.key, one);
          }
          for (const key of change.remove) expect(mirror.delete(key)).toBe(true);
          if (change.node) {
            expect(change.node).not.toEqual(node);
            node = change.node;
          }
          expect(mirror).toEqual(model.state.services);
          expect(node).toEqual(model.state.node);
        }
        expect(keysOf(model.produce())).toEqual({ set: [], remove: [] });
      }),
      { numRuns: 300 },
    );
  });

  it('never gives one frontend to two services', () => {
    fc.assert(
      fc.property(fc.array(arbitraryChange, { maxLength: 30 }), (changes) => {
        const model = new ClusterModel(CONFIG, FACTS);
        model.apply(changes);
        model.produce();
        const keys = SERVICES_OF(model).flatMap(([, { ports }]) =>
          ports.flatMap(({ frontends }) => frontends.map((f) => `${f.address} ${f.protocol} ${f.port}`)),
        );
        expect(new Set(keys).size).toBe(keys.length);
      }),
      { numRuns: 300 },
    );
  });
});

describe('produce', () => {
  const web = service();
  const other = service({ name: 'other', clusterIPs: [ip('10.200.1.11')] });
  const quiet = { set: [], remove: [] };

  it('names only what differs', () => {
    const model = modelOf([web, other, slice(['10.10.1.1'])]);
    const before = model.state.services.get('default/other');
    const change = produceAfter(model, ...set(slice(['10.10.1.1', '10.10.2.2'])));
    expect(keysOf(change)).toEqual({ set: ['default/web'], remove: [] });
    expect(change.node).toBeUndefined();
    expect(model.state.services.get('default/other')).toBe(before);
  });

  it('is silent about records that come again', () => {
    const model = modelOf([web, slice(['10.10.1.1']), nodeRecord()]);
    model.apply(set({ ...web }, slice(['10.10.1.1'])));
    expect(model.isDirty).toBe(false);
    expect(keysOf(produceAfter(model, ...set(nodeRecord())))).toEqual(quiet);
  });

  it('is silent about endpoints that change nothing', () => {
    const model = modelOf([web, slice(['10.10.1.1'])]);
    const change = produceAfter(model, ...set(slice(['10.10.1.1', endpoint('10.10.2.2', NOT_READY)])));
    expect(keysOf(change)).toEqual(quiet);
  });

  it('is silent about what came and went in between', () => {
    const model = modelOf([web]);
    model.apply(set(other));
    expect(keysOf(produceAfter(model, { op: 'delete', kind: 'Service', key: 'default/other' }))).toEqual(
      quiet,
    );
  });

  it('takes slices before their service, and a service before its slices', () => {
    const model = modelOf([slice(['10.10.1.1'])]);
    expect(model.state.services.size).toBe(0);
    const change = produceAfter(model, ...set(web));
    expect(change.set[0]!.ports[0]!.cluster).toHaveLength(1);
  });

  it('moves a slice that changes its service', () => {
    const model = modelOf([web, other, slice(['10.10.1.1'])]);
    const change = produceAfter(model, ...set(slice(['10.10.1.1'], { serviceName: 'other' })));
    expect(keysOf(change)).toEqual({ set: ['default/other', 'default/web'], remove: [] });
    expect(model.state.services.get('default/web')!.ports[0]!.cluster).toEqual([]);
    expect(model.state.services.get('default/other')!.ports[0]!.cluster).toHaveLength(1);
  });

  it('keeps the parts that stayed, by identity', () => {
    const ports = [
      { name: 'a', protocol: 'TCP', port: 80, nodePort: 0 },
      { name: 'b', protocol: 'TCP', port: 81, nodePort: 0 },
    ] as const;
    const slicePorts = [{ name: 'a', protocol: 'TCP', port: 8080 }] as const;
    const model = modelOf([service({ ports }), slice(['10.10.1.1'], { ports: slicePorts })]);
    const before = model.state.services.get('default/web')!;
    produceAfter(model, ...set(slice(['10.10.1.2'], { ports: slicePorts })));
    const after = model.state.services.get('default/web')!;
    expect(after.ports[0]!.cluster).not.toBe(before.ports[0]!.cluster);
    expect(after.ports[0]!.frontends).toBe(before.ports[0]!.frontends);
    expect(after.ports[1]).toBe(before.ports[1]);
  });
});

describe('this node', () => {
  it('gives its zone to the choice of endpoints', () => {
    const hinted = slice([
      endpoint('10.10.1.1', { zoneHints: ['west'] }),
      endpoint('10.10.2.2', { zoneHints: ['east'] }),
    ]);
    const model = modelOf([service(), hinted]);
    const pool = () =>
      model.state.services.get('default/web')!.ports[0]!.cluster.map(({ address }) => address);
    expect(pool()).toEqual(['10.10.1.1', '10.10.2.2']);
    produceAfter(model, ...set(nodeRecord({ zone: 'west' })));
    expect(pool()).toEqual(['10.10.1.1']);
    expect(keysOf(produceAfter(model, ...set(nodeRecord({ name: 'that', zone: 'east' })))).set).toEqual([]);
    produceAfter(model, ...set(nodeRecord({ zone: '' })));
    expect(pool()).toEqual(['10.10.1.1', '10.10.2.2']);
  });

  it('stays what it was when its object is deleted', () => {
    const model = modelOf([nodeRecord({ zone: 'west' })], { detectMode: 'NodeCIDR' });
    const { node } = model.state;
    const change = produceAfter(model, { op: 'delete', kind: 'Node', key: 'this' });
    expect(change.node).toBeUndefined();
    expect(model.state.node).toBe(node);
    expect(model.thisNode).toMatchObject({ zone: 'west' });
  });

  it('gives its pod CIDRs to the detector in NodeCIDR mode', () => {
    const model = modelOf([], { detectMode: 'NodeCIDR' });
    expect(model.state.node.detector).toEqual({ by: 'none' });
    const change = produceAfter(model, ...set(nodeRecord()));
    expect(change.node!.detector).toEqual({ by: 'cidr', cidrs: ['10.10.1.0/24', 'fd00:10:10:1::/64'] });
    expect(model.state.node).toBe(change.node);
  });

  it.each([
    ['ClusterCIDR', {}, { by: 'cidr', cidrs: ['10.10.0.0/16', 'fd00:10:10::/48'] }],
    ['ClusterCIDR', { clusterCIDRs: [] }, { by: 'none' }],
    ['BridgeInterface', { bridge: 'cni0' }, { by: 'bridge', name: 'cni0' }],
    ['BridgeInterface', {}, { by: 'none' }],
    ['InterfaceNamePrefix', { prefix: 'veth' }, { by: 'prefix', prefix: 'veth' }],
    ['InterfaceNamePrefix', {}, { by: 'none' }],
  ] as const)('detects by %s with %j', (detectMode, config, detector) => {
    expect(modelOf([], { detectMode, ...config }).state.node.detector).toEqual(detector);
  });

  it('moves NodePorts with its addresses, and touches nothing else', () => {
    const exposed = service({
      type: 'NodePort',
      ports: [{ name: '', protocol: 'TCP', port: 80, nodePort: 30000 }],
    });
    const model = modelOf([exposed, service({ name: 'other', clusterIPs: [ip('10.200.1.11')] })]);
    model.setFacts({ ...FACTS, nodePortAddresses: [ip('192.0.2.99')] });
    const change = model.produce();
    expect(keysOf(change)).toEqual({ set: ['default/web'], remove: [] });
    expect(change.set[0]!.ports[0]!.frontends[1]).toMatchObject({ kind: 'NodePort', address: '192.0.2.99' });
    model.setFacts({ ...FACTS, nodePortAddresses: [ip('192.0.2.99')] });
    expect(model.isDirty).toBe(false);
  });

  it('follows its primary address in source ranges', () => {
    const guarded = service({
      type: 'LoadBalancer',
      loadBalancerIPs: [ip('198.18.0.1')],
      sourceRanges: [net('192.0.2.0/24')],
    });
    const model = modelOf([guarded]);
    const ranges = () => model.state.services.get('default/web')!.ports[0]!.frontends[1]!.sourceRanges;
    expect(ranges()).toEqual(['192.0.2.0/24', '198.18.0.1/32']);
    model.setFacts({ ...FACTS, nodeAddresses: [ip('203.0.113.5')] });
    model.produce();
    expect(ranges()).toEqual(['192.0.2.0/24']);
  });

  it('knows the ServiceCIDRs of configuration and records, merged', () => {
    const model = modelOf([]);
    const configured = model.state.node.serviceCIDRs;
    const record = (name: string, ...cidrs: string[]): ClusterRecord => ({
      kind: 'ServiceCIDR',
      name,
      cidrs: cidrs.map(net),
    });
    const change = produceAfter(model, ...set(record('a', '10.200.0.0/16'), record('b', '10.200.0.0/16')));
    expect(change.node!.serviceCIDRs).toEqual(['10.200.0.0/16', 'fd00:10:200::/112']);
    // Another record still holds the same range.
    expect(produceAfter(model, { op: 'delete', kind: 'ServiceCIDR', key: 'a' }).node).toBeUndefined();
    produceAfter(model, { op: 'delete', kind: 'ServiceCIDR', key: 'b' });
    expect(model.state.node.serviceCIDRs).toEqual(configured);
  });

  it('knows the pods of this node that opt out of socket programs, by name', () => {
    const model = modelOf([]);
    const pod = (name: string, fields: Partial<PodRecord> = {}): PodRecord => ({
      ...{ kind: 'Pod', namespace: 'x', name, cgroupUid: `u-${name}` },
      ...{ nodeName: CONFIG.nodeName, socketLb: 'off', ...fields },
    });
    const others = [pod('far', { nodeName: 'elsewhere' }), pod('odd', { socketLb: 'default' })];
    expect(produceAfter(model, ...set(...others)).node).toBeUndefined();
    const { node } = produceAfter(model, ...set(pod('b'), pod('a', { nodeName: '' }), pod('a')));
    expect(node!.optOuts).toEqual([
      { pod: 'x/a', cgroupUid: 'u-a' },
      { pod: 'x/b', cgroupUid: 'u-b' },
    ]);
    const gone = { op: 'delete', kind: 'Pod', key: 'x/a' } as const;
    expect(produceAfter(model, gone, ...set(pod('b', { socketLb: 'default' }))).node).toEqual(
      modelOf([]).state.node,
    );
  });
});

describe('a frontend that two services claim', () => {
  const shared = { externalIPs: [ip('198.18.1.1')] };
  const old = service({ name: 'old', createdMs: 1000, clusterIPs: [ip('10.200.1.1')], ...shared });
  const young = service({ name: 'young', createdMs: 2000, clusterIPs: [ip('10.200.1.2')], ...shared });
  const problem = {
    code: 'TP_FRONTEND_TAKEN',
    object: 'Service default/young',
    reason: 'ExternalIP 198.18.1.1:9000/TCP belongs to default/old',
    origin: '',
  };
  const kinds = (model: ClusterModel, key: string) =>
    model.state.services.get(key)!.ports[0]!.frontends.map(({ kind }) => kind);

  it('is a problem of the younger, until the older lets go', () => {
    const model = new ClusterModel(CONFIG, FACTS);
    expect(produceAfter(model, ...set(young)).problems).toEqual([]);
    const taken = produceAfter(model, ...set(old));
    expect(taken.problems).toEqual([problem]);
    expect(keysOf(taken).set).toEqual(['default/old', 'default/young']);
    expect(kinds(model, 'default/young')).toEqual(['ClusterIP']);
    expect([...model.problems.values()]).toEqual([problem]);
    expect(produceAfter(model, ...set({ ...young, affinitySeconds: 5 })).problems).toEqual([]);

    const back = produceAfter(model, { op: 'delete', kind: 'Service', key: 'default/old' });
    expect(back.problemsGone).toEqual(['Service default/young']);
    expect(kinds(model, 'default/young')).toEqual(['ClusterIP', 'ExternalIP']);
    expect(model.problems.size).toBe(0);
  });

  it('is no problem any more once the loser is gone', () => {
    const model = modelOf([old, young]);
    const change = produceAfter(model, { op: 'delete', kind: 'Service', key: 'default/young' });
    expect(change.problemsGone).toEqual(['Service default/young']);
    expect(keysOf(change)).toEqual({ set: [], remove: ['default/young'] });
  });

  it('changes hands when the ages change', () => {
    const model = modelOf([old, young]);
    const change = produceAfter(model, ...set({ ...young, createdMs: 1 }));
    expect(kinds(model, 'default/old')).toEqual(['ClusterIP']);
    expect(change.problemsGone).toEqual(['Service default/young']);
    expect(change.problems.map(({ object }) => object)).toEqual(['Service default/old']);
  });

  it('takes the pool along that only it referred to', () => {
    const endpoints = slice(['10.10.1.1'], { serviceName: 'young' });
    const local = { ...young, internalPolicy: 'Local', externalPolicy: 'Cluster' } as const;
    const model = modelOf([local, endpoints]);
    expect(model.state.services.get('default/young')!.ports[0]!.cluster).toHaveLength(1);
    produceAfter(model, ...set(old));
    expect(model.state.services.get('default/young')!.ports[0]).toMatchObject({
      cluster: [],
      local: [{ address: '10.10.1.1' }],
    });
  });

  it('takes a service without any other frontend away', () => {
    const twin = { ...young, clusterIPs: old.clusterIPs, externalIPs: [] };
    const model = modelOf([old, twin]);
    expect([...model.state.services.keys()]).toEqual(['default/old']);
    produceAfter(model, { op: 'delete', kind: 'Service', key: 'default/old' });
    expect([...model.state.services.keys()]).toEqual(['default/young']);
  });

  it('names at most three of many', () => {
    const many = {
      externalIPs: ['198.18.1.1', '198.18.1.2', '198.18.1.3', '2001:db8:18::1', '198.18.1.5'].map(ip),
    };
    const model = modelOf([
      { ...old, ...many },
      { ...young, ...many },
    ]);
    expect(model.problems.get('Service default/young')!.reason).toMatch(/198\.18\.1\.3.* and 1 more$/);
  });

  it('within one service is a problem of that service', () => {
    const ports = [
      { name: 'a', protocol: 'TCP', port: 80, nodePort: 0 },
      { name: 'b', protocol: 'TCP', port: 80, nodePort: 0 },
    ] as const;
    const model = modelOf([service({ ports })]);
    expect([...model.problems.values()][0]!.reason).toBe(
      'ClusterIP 10.200.1.10:80/TCP belongs to default/web:a',
    );
  });
});

describe('what else produce() tells', () => {
  it('gives the oldest trigger time once, also when the state stays the same', () => {
    const model = modelOf([service()]);
    model.apply(set(slice(['10.10.1.1'], { triggerMs: 3000 })));
    model.apply(set(slice([endpoint('10.10.1.1', NOT_READY)], { triggerMs: 2000 })));
    model.apply(set(slice(['10.10.1.1'], { triggerMs: 4000 })));
    expect(model.produce().triggers).toEqual([{ key: 'default/web', triggerMs: 2000 }]);
    expect(model.produce().triggers).toEqual([]);
    const same = produceAfter(model, ...set(slice(['10.10.1.1'], { triggerMs: 5000 })));
    expect(same.triggers).toEqual([{ key: 'default/web', triggerMs: 5000 }]);
    expect(keysOf(same).set).toEqual([]);
  });

  it('gives no trigger time for a deletion', () => {
    const model = modelOf([service()]);
    model.apply(set(slice(['10.10.1.1'], { triggerMs: 3000 })));
    const change = produceAfter(model, { op: 'delete', kind: 'EndpointSlice', key: 'default/web-4' });
    expect(change.triggers).toEqual([]);
  });

  it('tells health checks as they come, change and go', () => {
    const lb = service({ type: 'LoadBalancer', externalPolicy: 'Local', healthCheckNodePort: 32000 });
    const model = new ClusterModel(CONFIG, FACTS);
    const health = (four: number) => ({ healthCheckNodePort: 32000, localReady: { 4: four, 6: 0 } });
    const told = (change: ModelChange) => change.health.map((one) => one.health);
    expect(told(produceAfter(model, ...set(lb)))).toEqual([health(0)]);
    expect(told(produceAfter(model, ...set(slice(['10.10.1.1']))))).toEqual([health(1)]);
    expect(told(produceAfter(model, ...set(slice(['10.10.1.1', '10.10.2.1']))))).toEqual([]);
    expect(model.healthChecks.get('default/web')).toEqual(health(1));
    expect(told(produceAfter(model, { op: 'delete', kind: 'Service', key: 'default/web' }))).toEqual([null]);
    expect(model.healthChecks.size).toBe(0);
  });

  it('tells stale UDP flows when what serves changes, even if no pool does', () => {
    const dns = service({ ports: [{ name: '', protocol: 'UDP', port: 53, nodePort: 0 }] });
    const ports = [{ name: '', protocol: 'UDP', port: 53 }] as const;
    const both = (over: object) => slice(['10.10.1.1', endpoint('10.10.2.2', over)], { ports });
    const model = modelOf([dns, both({})]);
    expect(produceAfter(model, ...set(both(TERMINATING))).staleFlows).toEqual([]);
    const gone = produceAfter(model, ...set(both(NOT_READY)));
    expect(keysOf(gone).set).toEqual([]);
    expect(gone.staleFlows).toEqual([
      { protocol: 'UDP', address: '10.200.1.10', port: 53, backend: '10.10.2.2', backendPort: 53 },
    ]);
  });

  it('tells which flows lead astray, by what is there now', () => {
    const model = modelOf([service(), slice(['10.10.1.1', '10.10.2.2'])]);
    const vip = { address: ip('10.200.1.10'), port: service().ports[0]!.port };
    const two = { address: ip('10.10.2.2'), port: 80 };
    const astray = (protocol: 'TCP' | 'UDP', to = vip, answers = two) =>
      model.leadsAstray(protocol, to, answers);
    expect([astray('TCP'), astray('TCP', vip, vip)]).toEqual([false, true]);
    expect(produceAfter(model, ...set(slice(['10.10.1.1']))).strandsTcp).toBe(true);
    expect(astray('TCP')).toBe(true);
    // Another protocol, port or address is no frontend of ours.
    const others = [
      { ...vip, port: vip.port + 1 },
      { ...vip, address: ip('10.200.1.11') },
    ];
    expect([astray('UDP'), ...others.map((to) => astray('TCP', to))]).toEqual([false, false, false]);
    model.apply([{ op: 'delete', kind: 'Service', key: 'default/web' }]);
    model.produce();
    expect(astray('TCP')).toBe(false);
  });
});
