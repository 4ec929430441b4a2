import { createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { HealthCheckPlan } from '../../src/agent/status.ts';
import { parseAddress } from '../../src/model/address.ts';
import { ServiceHealthServers, serviceBody } from '../../src/observe/service-health.ts';

const V4 = parseAddress('127.0.0.1')!;
const V6 = parseAddress('::1')!;

/** A port that is free now. */
async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '::', resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

async function ask(port: number, host = '127.0.0.1') {
  const response = await fetch(`http://${host}:${port}/anything`, { headers: { connection: 'close' } });
  const header = (name: string) => response.headers.get(name);
  return {
    code: response.status,
    weight: header('x-load-balancing-endpoint-weight'),
    type: header('content-type'),
    sniff: header('x-content-type-options'),
    /** Health checkers of load balancers speak HTTP/1.0, too: a length, no chunks. */
    length: Number(header('content-length')),
    body: await response.text(),
  };
}

const both = (count: number) => ({ 4: count, 6: count });

describe('health checks of services', () => {
  let healthy = true;
  const failures: string[] = [];
  let servers = new ServiceHealthServers({
    proxyHealthy: () => healthy,
    onFailure: (service, { message }) => failures.push(`${service}: ${message}`),
    retryMs: 50,
  });
  afterEach(async () => {
    await servers.close();
    servers = new ServiceHealthServers({
      proxyHealthy: () => healthy,
      onFailure: (service, { message }) => failures.push(`${service}: ${message}`),
      retryMs: 50,
    });
    failures.length = 0;
    healthy = true;
  });
  const apply = async (services: HealthCheckPlan['services'], addresses = [V4]) => {
    await servers.apply({ services, addresses });
    await servers.listening();
  };

  it('answers counts, weight and 503', async () => {
    const port = await freePort();
    await apply([{ service: 'ns/web', port, localReady: both(2) }]);
    expect(await ask(port)).toEqual({
      code: 200,
      weight: '2',
      type: 'application/json',
      sniff: 'nosniff',
      length: serviceBody('ns/web', 2, true).length,
      body: '{\n\t"service": {\n\t\t"namespace": "ns",\n\t\t"name": "web"\n\t},\n\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}',
    });
    healthy = false;
    expect(await ask(port)).toMatchObject({ code: 503, weight: '2', body: serviceBody('ns/web', 2, false) });
    healthy = true;
    await apply([{ service: 'ns/web', port, localReady: both(0) }]);
    expect(await ask(port)).toMatchObject({ code: 503, weight: '0' });
  });

  it('opens, moves and closes as services come and go', async () => {
    const [one, two] = [await freePort(), await freePort()];
    await apply([
      { service: 'a/a', port: one, localReady: both(1) },
      { service: 'b/b', port: two, localReady: both(1) },
    ]);
    // The two change ports: each must be free before the other takes it.
    await apply([
      { service: 'a/a', port: two, localReady: both(1) },
      { service: 'b/b', port: one, localReady: both(1) },
    ]);
    expect((await ask(one)).body).toContain('"b"');
    expect((await ask(two)).body).toContain('"a"');
    await apply([{ service: 'b/b', port: one, localReady: both(1) }]);
    expect((await ask(one)).code).toBe(200);
    await expect(ask(two)).rejects.toThrow();
    expect(failures).toEqual([]);
  });

  it('two services with one port: the first has it, the other is told so and follows', async () => {
    const port = await freePort();
    const [a, b] = [
      { service: 'a/a', port, localReady: both(1) },
      { service: 'b/b', port, localReady: both(1) },
    ];
    await apply([b]);
    // Whoever listens stays, whatever the order of the plan.
    await apply([a, b]);
    expect((await ask(port)).body).toContain('"b"');
    expect(failures).toEqual([`a/a: healthcheck "a/a" on port ${port}: service b/b has it`]);
    await apply([a]);
    expect((await ask(port)).body).toContain('"a"');
  });

  it('answers for the family at whose address it is asked', async () => {
    const port = await freePort();
    await apply([{ service: 'a/a', port, localReady: { 4: 1, 6: 0 } }], [V4, V6]);
    expect(await ask(port)).toMatchObject({ code: 200, weight: '1' });
    expect(await ask(port, '[::1]')).toMatchObject({ code: 503, weight: '0' });
    await apply([{ service: 'a/a', port, localReady: { 4: 0, 6: 2 } }], [V4, V6]);
    expect(await ask(port)).toMatchObject({ code: 503, weight: '0' });
    expect(await ask(port, '[::1]')).toMatchObject({ code: 200, weight: '2' });
  });

  it('listens on the addresses of the plan only', async () => {
    const port = await freePort();
    await apply([{ service: 'a/a', port, localReady: both(1) }], [V6]);
    expect((await ask(port, '[::1]')).code).toBe(200);
    await expect(ask(port)).rejects.toThrow();
    await apply([{ service: 'a/a', port, localReady: both(1) }], [V4, V6]);
    expect((await ask(port)).code).toBe(200);
    await apply(
      [{ service: 'a/a', port, localReady: both(1) }],
      [parseAddress('0.0.0.0')!, parseAddress('::')!],
    );
    expect((await ask(port)).code).toBe(200);
    expect((await ask(port, '[::1]')).code).toBe(200);
  });

  it('reports a port that is taken, and takes it when it is free', async () => {
    const blocker = createServer();
    await new Promise<void>((resolve) => blocker.listen(0, V4, resolve));
    const { port } = blocker.address() as { port: number };
    await servers.apply({ services: [{ service: 'a/a', port, localReady: both(1) }], addresses: [V4] });
    const taken = `cannot listen on 127.0.0.1:${port}: another process listens there`;
    await expect.poll(() => failures[0]).toBe(`a/a: healthcheck "a/a" on port ${port}: ${taken}`);
    await new Promise((resolve) => blocker.close(resolve));
    await servers.listening();
    expect((await ask(port)).code).toBe(200);
  });
});
