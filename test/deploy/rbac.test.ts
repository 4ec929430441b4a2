/** The rights in deploy/ are those that the source asks for: with them it works, without any of them it says which. */
import { afterEach, describe, expect, test } from 'vitest';
import { createKubernetesSource } from '../../src/source/kubernetes/source.ts';
import type { Source } from '../../src/source/source.ts';
import { type ApiVerb, FakeApiServer } from '../support/apiserver.ts';
import { Recorder } from '../support/recorder.ts';
import { find, manifests } from './support.ts';

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
}

/** "verb group/resource", one line a right. */
const RIGHTS = (find(manifests(), 'ClusterRole').rules as Rule[]).flatMap(({ apiGroups, resources, verbs }) =>
  apiGroups.flatMap((group) =>
    resources.flatMap((resource) => verbs.map((verb) => `${verb} ${group}/${resource}`)),
  ),
);

let api: FakeApiServer;
let source: Source;
let seen: Recorder;
let asked: Set<string>;
afterEach(async () => {
  await source.stop();
  await api.close();
});

async function begin(rights: readonly string[], watchList: 'yes' | 'no'): Promise<void> {
  asked = new Set();
  const mayDo = (verb: ApiVerb, group: string, resource: string) => {
    asked.add(`${verb} ${group}/${resource}`);
    return rights.includes(`${verb} ${group}/${resource}`);
  };
  api = await new FakeApiServer({ watchList, mayDo }).listen();
  api.set('nodes', { metadata: { name: 'n1' } });
  seen = new Recorder();
  source = createKubernetesSource({
    ...{ master: api.url, nodeName: 'n1', pods: 'labelled' },
    ...{ eventRetryMs: 5, backoffMinMs: 5 },
  });
  await source.start(seen);
  source.announce({
    about: { kind: 'Node', name: 'n1' },
    ...{ type: 'Normal', reason: 'Starting', action: 'StartKubeProxy', note: '' },
  });
}

describe('RBAC', () => {
  test.each(['yes', 'no'] as const)('the rights are enough (watch-list: %s)', async (watchList) => {
    await begin(RIGHTS, watchList);
    await seen.until('synced', ({ synced }) => synced === 1);
    await seen.until('everything is watched', () => api.watching === 5 && api.created.length === 1);
    expect([...seen.problems.values()]).toEqual([]);
  });

  test('none of them is one too many', async () => {
    // Without watch-list both list and watch are used; every right is asked for at last.
    await begin(RIGHTS, 'no');
    await seen.until('everything is asked for', () => asked.size >= RIGHTS.length);
    expect([...asked].sort()).toEqual([...RIGHTS].sort());
    expect(RIGHTS.some((right) => right.includes('*'))).toBe(false);
  });

  test.each(RIGHTS)('without "%s" the report names it', async (missing) => {
    await begin(
      RIGHTS.filter((right) => right !== missing),
      'no',
    );
    const [verb, group, resource] = missing.split(/[ /]/) as [string, string, string];
    const object =
      resource === 'events' ? 'events.events.k8s.io' : group === '' ? resource : `${resource}.${group}`;
    const problem = () => seen.problems.get(`API ${object}`);
    await seen.until('a problem', () => problem() !== undefined);
    expect(problem()!.code).toBe('TP_API');
    expect(problem()!.reason).toMatch(
      new RegExp(`^cannot ${verb} .*403 Forbidden.*RBAC must grant .*on ${object}`),
    );
  });
});
