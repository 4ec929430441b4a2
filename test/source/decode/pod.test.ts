import { describe, expect, it } from 'vitest';
import { decodePod } from '../../../src/source/decode/pod.ts';
import { pod } from './objects.ts';

const UID = '6f1e1a3c-7d2b-4c56-9a10-3b1f0d2e4c55';
const OFF = { 'triplane.dev/socket-lb': 'off' };

describe('decodePod', () => {
  it('reads who opts out, where it runs, and what its cgroup is named by', () => {
    expect(decodePod(pod())).toEqual({
      outcome: 'record',
      faults: [],
      record: {
        ...{ kind: 'Pod', namespace: 'default', name: 'mesh-0' },
        ...{ cgroupUid: UID, nodeName: 'worker-1', socketLb: 'off' },
      },
    });
  });

  it.each([
    ['has no label', pod({}, { labels: {} })],
    ['has other labels', pod({}, { labels: { app: 'web', 'socket-lb': 'off' } })],
    ['has no label and is odd otherwise', pod({ nodeName: 7 }, { labels: {}, uid: '' })],
    ['has ended', pod({}, {}, { phase: 'Succeeded' })],
    ['has failed', pod({}, {}, { phase: 'Failed' })],
  ])('ignores a pod that %s', (_what, raw) => {
    expect(decodePod(raw)).toEqual({ outcome: 'ignored', kind: 'Pod', key: 'default/mesh-0' });
  });

  it.each(['', 'Off', 'OFF', 'false', 'host', 'on', 'off ', 'constructor'])(
    'names the label %j, which has no effect',
    (value) => {
      const decoded = decodePod(pod({}, { labels: { 'triplane.dev/socket-lb': value } }));
      expect(decoded).toMatchObject({ outcome: 'record', record: { socketLb: 'default' } });
      expect(decoded.outcome === 'record' && decoded.faults).toEqual([
        `metadata.labels[triplane.dev/socket-lb] is ${JSON.stringify(value)}, which means nothing; only "off" does`,
      ]);
    },
  );

  it('takes the UID of the static pod behind a mirror, and of nobody else', () => {
    const hash = '0a7f3bc1d2e94f5566778899aabbccdd';
    const mirror = { 'kubernetes.io/config.mirror': hash, 'kubernetes.io/config.hash': hash };
    expect(decodePod(pod({}, { annotations: mirror }))).toMatchObject({ record: { cgroupUid: hash } });
    // What is no mirror says nothing by its annotations.
    const claim = { 'kubernetes.io/config.hash': hash };
    expect(decodePod(pod({}, { annotations: claim }))).toMatchObject({ record: { cgroupUid: UID } });
  });

  it.each([
    ['no UID', pod({}, { uid: undefined }), 'metadata.uid is nothing'],
    ['no hash', pod({}, { annotations: { 'kubernetes.io/config.mirror': 'x' } }), 'config.hash] is nothing'],
    [
      'a hash with a path in it',
      pod({}, { annotations: { 'kubernetes.io/config.mirror': 'x', 'kubernetes.io/config.hash': '../x' } }),
      'config.hash] is "../x"',
    ],
    ['a node that cannot be', pod({ nodeName: 'a b' }), 'spec.nodeName is "a b"'],
    ['a label that is no text', pod({}, { labels: { 'triplane.dev/socket-lb': false } }), 'is false, not'],
    ['a label that hides', pod({}, { labels: JSON.parse('{"__proto__": {}}') }), ''],
  ])('a pod with %s', (_what, raw, reason) => {
    const decoded = decodePod(raw);
    if (reason === '') expect(decoded.outcome).toBe('ignored');
    else expect(decoded).toMatchObject({ outcome: 'refused', key: 'default/mesh-0' });
    if (decoded.outcome === 'refused') expect(decoded.reason).toContain(reason);
  });

  it('a label may stand on a pod that is not scheduled yet', () => {
    expect(decodePod(pod({ nodeName: undefined }, { labels: OFF }))).toMatchObject({
      record: { nodeName: '', socketLb: 'off' },
    });
  });
});
