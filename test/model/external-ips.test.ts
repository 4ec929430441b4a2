import { describe, expect, it } from 'vitest';
import type { ModelConfig } from '../../src/model/change.ts';
import { ClusterModel } from '../../src/model/cluster.ts';
import type { RecordChange } from '../../src/model/records.ts';
import { CONFIG, endpoint, FACTS, ip, net, service, slice } from './world.ts';

const INSIDE = ip('203.0.113.7');
const OUTSIDE = ip('198.18.1.1');
const SIX = ip('2001:db8:18::1');
const RECORDS = [
  service({ externalIPs: [INSIDE, OUTSIDE, SIX], clusterIPs: [ip('10.200.1.10'), ip('fd00:10:200::10')] }),
  slice([endpoint('10.10.1.1')]),
];

function modelWith(externalIPCidrs: ModelConfig['externalIPCidrs']) {
  const model = new ClusterModel({ ...CONFIG, ...(externalIPCidrs ? { externalIPCidrs } : {}) }, FACTS);
  model.apply(RECORDS.map((record): RecordChange => ({ op: 'set', record })));
  return { model, change: model.produce() };
}

const addresses = (model: ClusterModel) =>
  [...model.state.services.values()]
    .flatMap(({ ports }) => ports.flatMap(({ frontends }) => frontends))
    .filter(({ kind }) => kind === 'ExternalIP')
    .map(({ address }) => address)
    .sort();

describe('external IPs', () => {
  it.each([
    [undefined, [OUTSIDE, SIX, INSIDE]],
    [
      [net('0.0.0.0/0'), net('::/0')],
      [OUTSIDE, SIX, INSIDE],
    ],
    [[net('203.0.113.0/24')], [INSIDE]],
    [
      [net('203.0.113.0/24'), net('2001:db8::/32')],
      [SIX, INSIDE],
    ],
    [[], []],
  ])('within %j: %j', (ranges, served) => {
    const { model, change } = modelWith(ranges);
    expect(addresses(model)).toEqual([...served].sort());
    // The rest of the service is served whatever happens to them.
    expect(
      model.state.services.get('default/web')?.ports[0]?.frontends.some(({ kind }) => kind === 'ClusterIP'),
    ).toBe(true);
    const lost = 3 - served.length;
    expect(change.problems.length).toBe(lost === 0 ? 0 : 1);
    if (lost > 0) {
      expect(change.problems[0]).toMatchObject({ code: 'TP_EXTERNAL_IP', object: 'Service default/web' });
      expect(change.problems[0]!.reason).toContain(`external IP ${OUTSIDE} is in none of the allowed ranges`);
    }
  });

  it('ranges that change count at once, and the problem goes with them', () => {
    const { model } = modelWith([]);
    model.setConfig({ ...CONFIG, externalIPCidrs: [net('0.0.0.0/0'), net('::/0')] });
    const opened = model.produce();
    expect(opened.set.map(({ key }) => key)).toEqual(['default/web']);
    expect(opened.problemsGone).toEqual(['Service default/web']);
    expect(addresses(model)).toHaveLength(3);
    model.setConfig({ ...CONFIG, externalIPCidrs: [net('203.0.113.0/24')] });
    expect(model.produce().problems).toMatchObject([{ code: 'TP_EXTERNAL_IP' }]);
    expect(addresses(model)).toEqual([INSIDE]);
    expect(model.produce().set).toEqual([]);
  });

  it('an address that it may not have is free for the service that may', () => {
    const { model } = modelWith([net('203.0.113.0/24')]);
    expect([...model.problems.values()]).toHaveLength(1);
    const rival = service({ name: 'rival', createdMs: 5, clusterIPs: [OUTSIDE] });
    model.apply([{ op: 'set', record: rival }]);
    expect(model.produce().problems).toEqual([]);
    expect(model.state.services.get('default/rival')?.ports[0]?.frontends[0]?.address).toBe(OUTSIDE);
  });
});
