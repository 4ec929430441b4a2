/** Whoever may write EndpointSlices may write many: that may cost the service they are of, and nobody else. */
import { describe, expect, it } from 'vitest';
import { nextPool } from '../../src/dataplane/nft/pool.ts';
import { BACKENDS_MAX } from '../../src/model/endpoints.ts';
import { endpoint, ip, modelOf, service, slice, THIS } from './world.ts';

const SLICE = 1_000;

/** Numbers first..first+count-1 as addresses of pods on this node. */
function addresses(first: number, count: number): string[] {
  return Array.from(
    { length: count },
    (_, i) => `10.${64 + ((first + i) >> 16)}.${((first + i) >> 8) & 255}.${(first + i) & 255}`,
  );
}

function slices(count: number) {
  return Array.from({ length: Math.ceil(count / SLICE) }, (_, n) =>
    slice(
      addresses(n * SLICE, Math.min(SLICE, count - n * SLICE)).map((address) =>
        endpoint(address, { nodeName: THIS }),
      ),
      { name: `web-${n}` },
    ),
  );
}

describe('a service with more endpoints than a pool holds', () => {
  const web = service({
    type: 'NodePort',
    externalPolicy: 'Local',
    ports: [{ name: '', protocol: 'TCP', port: 80, nodePort: 30080 }],
  });
  const other = service({ name: 'other', clusterIPs: [ip('10.200.1.99')] });
  const full = Math.ceil(BACKENDS_MAX / SLICE) * SLICE;

  it('is served by the first of them and named; with fewer the problem goes', () => {
    const model = modelOf([
      web,
      other,
      ...slices(full),
      slice(['10.10.1.9'], { name: 'other-4', serviceName: 'other' }),
    ]);
    const [port] = model.state.services.get('default/web')!.ports;
    expect([port!.cluster.length, port!.local.length]).toEqual([BACKENDS_MAX, BACKENDS_MAX]);
    expect(port!.cluster[0]!.address).toBe('10.64.0.0');
    expect(model.problems.get('Service default/web')).toMatchObject({
      code: 'TP_TOO_MANY_ENDPOINTS',
      reason: `${full - BACKENDS_MAX} endpoints beyond ${BACKENDS_MAX} get no connections`,
    });
    expect(model.state.services.get('default/other')!.ports[0]!.cluster).toHaveLength(1);
    model.apply([{ op: 'delete', kind: 'EndpointSlice', key: 'default/web-0' }]);
    expect(model.produce().problemsGone).toEqual(['Service default/web']);
    expect(model.state.services.get('default/web')!.ports[0]!.cluster).toHaveLength(full - SLICE);
  });

  it('leaves room in nft mode for a pool with affinity that is replaced whole', () => {
    const backends = (first: number) =>
      addresses(first, BACKENDS_MAX).map((address) => ({ address: ip(address), port: 80, local: false }));
    const old = nextPool(null, backends(0), 'affinity', () => 1);
    const next = nextPool(old, backends(BACKENDS_MAX), 'affinity', () => 2);
    expect(new Set([...old.ids!, ...next.ids!]).size).toBe(2 * BACKENDS_MAX);
  });
});
