import { expect, test } from 'vitest';
import { holdupOf, type Standing } from '../../src/agent/holdup.ts';
import type { SourceHealth } from '../../src/agent/status.ts';

const source = (what: string, synced: boolean, lastError = ''): SourceHealth => ({
  ...{ what, synced, lastError, lastContactMs: 0, failures: 0 },
});
const WELL: Standing = {
  sources: [source('API services', true)],
  waitingFor: '',
  synced: true,
  kernelError: '',
};

const CASES: readonly [string, Partial<Standing>, string | null, string | null][] = [
  ['all is well', {}, null, null],
  [
    'sources that are not complete, by name; their errors only in the detail',
    {
      synced: false,
      sources: [
        source('API services', false, 'connect ECONNREFUSED 10.0.0.1:6443'),
        source('API nodes', true),
        source('API endpointslices.discovery.k8s.io', false),
      ],
    },
    'not all is known yet of: API services, API endpointslices.discovery.k8s.io',
    'waiting for API services: connect ECONNREFUSED 10.0.0.1:6443; waiting for API endpointslices.discovery.k8s.io',
  ],
  [
    'a path only in the detail',
    { synced: false, sources: [source('manifests /srv/secret', false, 'no')] },
    'not all is known yet of: manifests',
    'waiting for manifests /srv/secret: no',
  ],
  [
    'a source that fails later keeps nothing from the kernel',
    { sources: [source('API nodes', false, 'no')] },
    null,
    null,
  ],
  [
    'the Node',
    { synced: false, waitingFor: 'Node n1 does not exist yet' },
    'waiting: Node n1 does not exist yet',
    'waiting: Node n1 does not exist yet',
  ],
  [
    'the kernel refuses, also later',
    { kernelError: 'table\nip triplane: no' },
    'the kernel refused what it was told last',
    'the kernel could not be brought up to date: table ip triplane: no',
  ],
  [
    'nothing but time',
    { synced: false },
    'the first full state is on its way',
    'the first full state is on its way',
  ],
];

test.each(CASES)('%s', (_title, change, brief, detail) => {
  const holdup = holdupOf({ ...WELL, ...change });
  expect(holdup?.brief ?? null).toBe(brief);
  expect(holdup?.detail ?? null).toBe(detail);
});
