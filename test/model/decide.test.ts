import { describe, expect, it } from 'vitest';
import { decide, type Packet, type Verdict } from '../../src/model/decide.ts';
import { CONFORMANCE, type Expectation } from './conformance.ts';
import { ip, modelOf, service, slice } from './world.ts';

/** A verdict in the words of the table. */
function inWords(verdict: Verdict, packet: Packet): Expectation {
  if (verdict.action === 'reject') return verdict.how;
  if (verdict.action !== 'forward') return verdict.action;
  const { backends } = verdict;
  const masqueraded = backends.filter((backend) => backend.masquerade);
  const hairpin = masqueraded.length > 0 && masqueraded.every((backend) => backend.address === packet.source);
  const whole = masqueraded.length === backends.length;
  const isHairpin = hairpin && (!whole || verdict.frontend.masquerade !== 'always');
  return {
    to: backends.map((backend) => `${backend.address} ${backend.port}`).sort(),
    masquerade: isHairpin ? 'hairpin' : whole ? 'yes' : 'no',
    ...(verdict.affinitySeconds > 0 ? { sticky: true } : {}),
  };
}

describe('the conformance table', () => {
  it('names every row once', () => {
    const names = CONFORMANCE.map((row) => row.name);
    expect(new Set(names).size).toBe(names.length);
  });

  it.each(CONFORMANCE)('$name', ({ records, config, facts, packet, expect: expected }) => {
    const model = modelOf(records, config, facts);
    const verdict = decide(model.state, packet, facts.nodeAddresses);
    expect(inWords(verdict, packet)).toEqual(expected);
    expect(verdict.because.length).toBeGreaterThan(0);
    for (const line of verdict.because) expect(line).not.toContain('\n');
  });

  it.each(CONFORMANCE)(
    'in any order of records: $name',
    ({ records, config, facts, packet, expect: expected }) => {
      const model = modelOf([...records].reverse(), config, facts);
      expect(inWords(decide(model.state, packet, facts.nodeAddresses), packet)).toEqual(expected);
    },
  );
});

describe('decide', () => {
  const packet: Packet = {
    family: 4,
    protocol: 'TCP',
    source: ip('10.10.1.99'),
    destination: ip('10.200.1.10'),
    port: 9000,
    from: 'pod',
  };

  it('says which service, pool and affinity', () => {
    const model = modelOf([service({ affinitySeconds: 10800 }), slice(['10.10.1.1'])]);
    expect(decide(model.state, packet)).toMatchObject({
      action: 'forward',
      service: 'default/web',
      port: { name: 'default/web', family: 4, protocol: 'TCP' },
      frontend: { kind: 'ClusterIP' },
      pool: 'cluster',
      affinitySeconds: 10800,
    });
  });

  it('explains itself', () => {
    const model = modelOf([service(), slice(['10.10.1.1', '10.10.2.2'])]);
    expect(decide(model.state, packet).because).toEqual([
      '10.200.1.10:9000/TCP is ClusterIP of default/web',
      '10.10.1.99 is a pod, as the local detector (cidr) says',
      'the cluster pool has 2 backends',
      'only sources that are no pods are masqueraded here: this packet is not masqueraded',
    ]);
  });

  it('takes the word of the caller for a pod when the interface is not known', () => {
    const bridge = { detectMode: 'BridgeInterface', bridge: 'cni0' } as const;
    const model = modelOf([service(), slice(['10.10.2.2'])], bridge);
    expect(inWords(decide(model.state, packet), packet)).toMatchObject({ masquerade: 'no' });
    const other: Packet = { ...packet, from: 'outside' };
    expect(inWords(decide(model.state, other), other)).toMatchObject({ masquerade: 'yes' });
  });
});
