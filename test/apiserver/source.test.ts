/** The source on a real etcd and a real kube-apiserver: ten thousand services, and everything that happens to a way there. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import type { RecordChange } from '../../src/model/records.ts';
import { createKubernetesSource, type KubernetesOptions } from '../../src/source/kubernetes/source.ts';
import type { RequestEvent, Source } from '../../src/source/source.ts';
import { Recorder } from '../support/recorder.ts';
import { Relay } from '../support/relay.ts';
import { skipUnless } from '../support/skip.ts';
import { multiplyService } from './support/bulk.ts';
import { ControlPlane, missingBinaries } from './support/control-plane.ts';

const missing = missingBinaries();
const real = skipUnless(missing === '', missing);
const SERVICES = 10_000;
const SERVICES_PATH = '/api/v1/namespaces/default/services';
const SLICES_PATH = '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices';
/** A list of ten thousand services as JSON has more than ten million bytes. */
const NO_LIST_BYTES = 1_000_000;

const service = (name: string) => ({
  ...{ apiVersion: 'v1', kind: 'Service', metadata: { name } },
  spec: { ports: [{ port: 80 }] },
});
const slice = (name: string, address: string) => ({
  ...{ apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', addressType: 'IPv4' },
  metadata: { name: `${name}-1`, labels: { 'kubernetes.io/service-name': name } },
  endpoints: [{ addresses: [address] }],
  ports: [{ name: '', port: 8080 }],
});

/** A watch-list of ten thousand services must end in that time as well, also on a busy machine. */
const WATCH_MS = 5_000;
/** The first list must come within it, on a busy machine too; the server goes on taking it a while after its end. */
const [ENDS_SOON, ENDED] = [20, -120];
/** A test waits more than once, and is to end with the words of the wait that was in vain. */
vi.setConfig({ testTimeout: 400_000 });

/** Many at a time. */
async function forEach(names: readonly string[], work: (name: string) => Promise<unknown>): Promise<void> {
  const rest = names[Symbol.iterator]();
  const one = async () => {
    for (const name of rest) await work(name);
  };
  await Promise.all(Array.from({ length: 32 }, one));
}

class Listener extends Recorder {
  readonly requests: RequestEvent[] = [];
  /** Called with each batch, before the source goes on. */
  onBatch: (() => void) | null = null;

  override onChanges(changes: readonly RecordChange[]): void {
    super.onChanges(changes);
    this.onBatch?.();
  }

  onRequest(request: RequestEvent): void {
    this.requests.push(request);
  }

  answers(verb: RequestEvent['verb'], status: number): number {
    return this.requests.filter((request) => request.verb === verb && request.status === status).length;
  }
}

real.describe('a real API server', () => {
  const names = Array.from({ length: SERVICES }, (_, i) => `s${i}`);
  let plane: ControlPlane;
  let relay: Relay;
  let source: Source | undefined;
  let seen: Listener;
  beforeAll(async () => {
    plane = await new ControlPlane().start();
    await plane.grantAll();
    await plane.create('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } });
    await plane.create(SERVICES_PATH, service('s0'));
    await multiplyService(plane, 's0', names.slice(1));
    await plane.create(SLICES_PATH, slice('s0', '10.1.0.1'));
    relay = await new Relay(() => plane.port).listen(0);
  }, 600_000);
  afterEach(() => source?.stop());
  afterAll(async () => {
    await relay?.close();
    await plane?.stop();
  });

  async function begin(options: Partial<KubernetesOptions> = {}): Promise<void> {
    seen = new Listener();
    source = createKubernetesSource({
      ...{ kubeconfigPath: plane.kubeconfig('agent'), nodeName: 'n1', eventRetryMs: 200, backoffMinMs: 50 },
      ...options,
    });
    await source.start(seen);
  }
  /** More patient than a recorder for a fake server. */
  async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    await vi.waitFor(
      async () => {
        if (await holds()) return;
        const reasons = source?.health().map(({ what: of, lastError }) => `${of}: ${lastError || 'fine'}`);
        throw new Error(`never: ${what}; ${reasons?.join('; ')}`);
      },
      { timeout: 180_000, interval: 50 },
    );
  }
  const throughRelay = () => ({ kubeconfigPath: plane.kubeconfig('agent', { server: relay.url }) });
  const synced = () => eventually('synced', () => seen.synced === 1);
  const addressOf = (name: string) => {
    const record = seen.records.get(`EndpointSlice default/${name}-1`);
    return record?.kind === 'EndpointSlice' ? record.endpoints[0]?.address : undefined;
  };
  const portOf = (name: string) => {
    const record = seen.records.get(`Service default/${name}`);
    return record?.kind === 'Service' ? record.ports[0]?.port : undefined;
  };
  const patch = async (at: string, body: object) => {
    const answer = await plane.call('PATCH', at, body);
    expect(answer.status, JSON.stringify(answer.body)).toBe(200);
  };
  let address = 1;
  /** An endpoint changes, and that arrives. */
  const aChangeArrives = async () => {
    const now = `10.1.0.${++address}`;
    await patch(`${SLICES_PATH}/s0-1`, { endpoints: [{ addresses: [now] }] });
    await eventually('the change', () => addressOf('s0') === now);
  };
  const servicesSeen = () => seen.keys().filter((key) => key.startsWith('Service default/s')).length;
  const noProblem = () => eventually('no problem', () => seen.problems.size === 0);

  test('ten thousand services arrive by a watch-list, and changes of them', async () => {
    await begin();
    await synced();
    expect(servicesSeen()).toBe(SERVICES);
    expect(seen.records.has('Node n1')).toBe(true);
    expect([...seen.problems.values()]).toEqual([]);
    expect(seen.requests.filter(({ verb, status }) => verb !== 'watch' || status !== 200)).toEqual([]);
    await aChangeArrives();
    await plane.create(SERVICES_PATH, service('more'));
    await eventually('a new one', () => seen.records.has('Service default/more'));
    expect((await plane.call('DELETE', `${SERVICES_PATH}/more`)).status).toBe(200);
    await eventually('it gone', () => !seen.records.has('Service default/more'));
  });

  test('the service range that the server made is known, and one more', async () => {
    await begin();
    await synced();
    await eventually('the first range', () => seen.records.has('ServiceCIDR kubernetes'));
    const at = '/apis/networking.k8s.io/v1/servicecidrs';
    const spec = { cidrs: ['10.77.0.0/24'] };
    const object = {
      apiVersion: 'networking.k8s.io/v1',
      kind: 'ServiceCIDR',
      metadata: { name: 'more' },
      spec,
    };
    await plane.create(at, object);
    await eventually('the second', () => seen.records.has('ServiceCIDR more'));
    expect(seen.records.get('ServiceCIDR more')).toMatchObject(spec);
    await plane.call('DELETE', `${at}/more`);
    await eventually('it gone', () => !seen.records.has('ServiceCIDR more'));
  });

  test('watches that are dropped go on where they were', async () => {
    await begin(throughRelay());
    await synced();
    const before = relay.bytes;
    for (let round = 0; round < 3; round++) {
      relay.reset();
      await aChangeArrives();
    }
    expect(relay.bytes - before).toBeLessThan(NO_LIST_BYTES);
    expect(seen.log.filter((line) => line.startsWith('delete'))).toEqual([]);
  });

  test('watches that end in time go on where they were', async () => {
    await begin({ ...throughRelay(), watchTimeoutMs: WATCH_MS });
    await synced();
    const [before, watches] = [relay.bytes, seen.answers('watch', 200)];
    await eventually('more watches', () => seen.answers('watch', 200) > watches + 6);
    await aChangeArrives();
    expect(relay.bytes - before).toBeLessThan(NO_LIST_BYTES);
    expect([...seen.problems.values()]).toEqual([]);
  });

  test('watches that are half-open are found dead', async () => {
    await begin({ ...throughRelay(), watchTimeoutMs: WATCH_MS, watchGraceMs: 500 });
    await synced();
    relay.silence();
    await aChangeArrives();
    await noProblem();
  });

  test('a watch that is read too slowly loses nothing', async () => {
    await begin(throughRelay());
    await synced();
    relay.silence();
    // More than the buffers on the way hold, so that the server must wait or give up.
    const [some, annotations] = [names.slice(0, 2_000), { filler: 'x'.repeat(16_384) }];
    await forEach(some, (name) =>
      patch(`${SERVICES_PATH}/${name}`, { metadata: { annotations }, spec: { ports: [{ port: 81 }] } }),
    );
    expect(portOf('s0')).toBe(80);
    relay.resume();
    await eventually('all changes', () => some.every((name) => portOf(name) === 81));
    await aChangeArrives();
    await forEach(some, (name) => patch(`${SERVICES_PATH}/${name}`, { metadata: { annotations: null } }));
  });

  test('a server that is killed and comes back changes nothing but what has changed', async () => {
    await begin();
    await synced();
    const before = seen.log.length;
    await plane.stopServer();
    await eventually('failures', () => source!.health().some(({ failures }) => failures > 0));
    expect(seen.log.length).toBe(before);
    await plane.startServer();
    await aChangeArrives();
    await noProblem();
    expect(seen.log.slice(before)).toEqual(['set EndpointSlice default/s0-1']);
  });

  test('a server that ends in order, too', async () => {
    await begin();
    await synced();
    const before = seen.log.length;
    await plane.stopServer('SIGTERM');
    await plane.startServer();
    await aChangeArrives();
    await noProblem();
    expect(seen.log.slice(before)).toEqual(['set EndpointSlice default/s0-1']);
  });

  test('history that was compacted away while the server was down is made up for', async () => {
    await begin();
    await synced();
    await aChangeArrives();
    await plane.stopServer();
    plane.compact();
    await plane.startServer();
    await aChangeArrives();
    expect(servicesSeen()).toBe(SERVICES);
    expect(seen.log.filter((line) => line.startsWith('delete'))).toEqual([]);
  });

  test('a token that runs out is reported, and the next one is taken from its file', async () => {
    const tokenFile = path.join(plane.folder, 'token');
    writeFileSync(tokenFile, plane.token(ENDS_SOON));
    const kubeconfigPath = plane.kubeconfig('agent', { tokenFile });
    await begin({ kubeconfigPath, watchTimeoutMs: WATCH_MS });
    await synced();
    await eventually('a refusal', () => seen.problems.get('API services')?.reason.includes('401') ?? false);
    expect(servicesSeen()).toBe(SERVICES);
    writeFileSync(tokenFile, `${plane.token(3_600)}\n`);
    await noProblem();
    await aChangeArrives();
    expect(seen.log.filter((line) => line.startsWith('delete'))).toEqual([]);
  });

  test('a token that is refused at first is read again when it has been renewed', async () => {
    const tokenFile = path.join(plane.folder, 'refused');
    writeFileSync(tokenFile, plane.token(ENDED));
    await begin({ kubeconfigPath: plane.kubeconfig('agent', { tokenFile }) });
    await eventually('a refusal', () => seen.problems.get('API services')?.reason.includes('401') ?? false);
    writeFileSync(tokenFile, `${plane.token(3_600)}\n`);
    await synced();
    await noProblem();
  });

  test('events are taken as they are made', async () => {
    await begin();
    source!.announce({
      about: { kind: 'Node', name: 'n1' },
      ...{ type: 'Normal', reason: 'Starting', action: 'StartKubeProxy', note: '' },
    });
    source!.announce({
      about: { kind: 'Service', key: 'default/s0' },
      ...{ type: 'Warning', reason: 'FailedToStartServiceHealthcheck', action: 'Listen', note: 'port taken' },
    });
    // As `kubectl describe` asks for them.
    const eventsOf = async (kind: string, name: string) => {
      const object = await plane.call(
        'GET',
        kind === 'Node' ? `/api/v1/nodes/${name}` : `${SERVICES_PATH}/${name}`,
      );
      const { uid } = object.body.metadata;
      const fields = `involvedObject.kind=${kind},involvedObject.name=${name},involvedObject.uid=${uid}`;
      return (await plane.call('GET', `/api/v1/namespaces/default/events?fieldSelector=${fields}`)).body
        .items;
    };
    await eventually('two events', async () => (await eventsOf('Service', 's0')).length === 1);
    expect(await eventsOf('Service', 's0')).toMatchObject([
      {
        ...{ type: 'Warning', reason: 'FailedToStartServiceHealthcheck', action: 'Listen' },
        ...{ message: 'port taken', reportingComponent: 'kube-proxy' },
      },
    ]);
    expect(await eventsOf('Node', 'n1')).toMatchObject([{ type: 'Normal', reason: 'Starting' }]);
    expect(seen.problems.has('API events.events.k8s.io')).toBe(false);
  });

  // The last ones: they leave the server with other flags.
  test('a server without watch-list is asked for lists', async () => {
    await plane.stopServer();
    await plane.startServer(['--feature-gates=WatchList=false']);
    await begin();
    await synced();
    expect(servicesSeen()).toBe(SERVICES);
    expect(seen.answers('list', 200)).toBeGreaterThanOrEqual(4);
    await aChangeArrives();
    await noProblem();
  });

  test('pages come one by one, also when history is compacted away between two of them', async () => {
    await plane.stopServer();
    await plane.startServer(['--feature-gates=WatchList=false', '--watch-cache=false']);
    await begin({ pageSize: 100 });
    let pages = 0;
    seen.onBatch = () => {
      // The source stands still meanwhile, and asks for the next page of a list whose version is gone.
      if (seen.synced === 0 && ++pages === 10) plane.compact();
    };
    await synced();
    expect(pages).toBeGreaterThan(10);
    expect(servicesSeen()).toBe(SERVICES);
    expect(seen.answers('list', 410)).toBe(1);
    await aChangeArrives();
    await noProblem();
  });
});
