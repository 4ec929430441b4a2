import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ClusterEvent, RunningAgent } from '../../src/agent/status.ts';
import { askAgent } from '../../src/cli/admin-client.ts';
import { followFile } from '../../src/cli/follow.ts';
import { MACHINERY } from '../../src/cli/machinery.ts';
import { runCommand } from '../../src/cli/run.ts';
import type { Config } from '../../src/config/config.ts';
import { refusingControl, TestAgent } from '../observe/support/agent.ts';

const HEAD = 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n';
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), `triplane-run-${process.pid}-`));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

/** Runs `triplane run` in this process around an agent that does nothing but answer. */
function start(args: readonly string[]) {
  const status = new TestAgent();
  const seen = {
    started: [] as Config[],
    reconfigured: [] as Config[],
    announced: [] as ClusterEvent[],
    stopped: 0,
  };
  let fail: (error: Error) => void = () => {};
  const ended = new Promise<void>((_, reject) => {
    fail = reject;
  });
  const agent: RunningAgent = {
    status,
    control: refusingControl,
    ended,
    announce: (event) => void seen.announced.push(event),
    reconfigure: async (config) => void seen.reconfigured.push(config),
    stop: async () => void seen.stopped++,
  };
  const startAgent = async () => async (config: Config) => {
    seen.started.push(config);
    return agent;
  };
  const command = runCommand({ out: () => {}, err: () => {} }, { ...MACHINERY, startAgent });
  const done = command.parseAsync([...args, '--logging-format=json'], { from: 'user' });
  done.catch(() => {});
  return { status, seen, fail, done };
}

const socket = () => path.join(folder, 'a.sock');
const answers = (url: string) =>
  fetch(url).then(
    (response) => response.status,
    () => 0,
  );

describe('triplane run', () => {
  it('serves while it runs, follows its file, and ends on SIGTERM', async () => {
    const [healthz, metrics] = [await freePort(), await freePort()];
    const file = path.join(folder, 'config.yaml');
    writeFileSync(file, `${HEAD}mode: nftables\n`);
    const args = [
      `--config=${file}`,
      `--healthz-bind-address=127.0.0.1:${healthz}`,
      `--metrics-bind-address=127.0.0.1:${metrics}`,
      `--admin-socket=${socket()}`,
    ];
    const { status, seen, done } = start(args);
    await expect.poll(() => answers(`http://127.0.0.1:${healthz}/healthz`)).toBe(200);
    status.isSynced = false;
    expect(await answers(`http://127.0.0.1:${healthz}/healthz`)).toBe(503);
    expect(await (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text()).toContain(
      'kubeproxy_proxy_healthz_total{code="503"} 1',
    );
    expect(await askAgent(socket(), 'GET', '/v1/node')).toMatchObject({ name: 'n1' });
    expect(seen.started[0]).toMatchObject({ proxyMode: 'nft', configFile: file });

    writeFileSync(
      file,
      `${HEAD}mode: ipvs\nhealthzBindAddress: 127.0.0.1:1\nmetricsBindAddress: 127.0.0.1:1\nenableProfiling: true\n`,
    );
    process.emit('SIGHUP', 'SIGHUP');
    await expect.poll(() => seen.reconfigured.length).toBe(1);
    expect(seen.reconfigured[0]).toMatchObject({
      proxyMode: 'ipvs',
      profiling: false,
      healthzBind: { port: healthz },
    });
    const configz = JSON.parse(await (await fetch(`http://127.0.0.1:${metrics}/configz`)).text());
    expect(configz['kubeproxy.config.k8s.io']).toMatchObject({ mode: 'ipvs', enableProfiling: false });

    writeFileSync(file, 'mode: [');
    process.emit('SIGHUP', 'SIGHUP');
    process.emit('SIGTERM', 'SIGTERM');
    await done;
    expect(seen.stopped).toBe(1);
    expect(seen.reconfigured).toHaveLength(1);
    expect(await answers(`http://127.0.0.1:${healthz}/healthz`)).toBe(0);
    expect(process.listenerCount('SIGHUP') + process.listenerCount('SIGTERM')).toBe(0);
  });

  it('ends with the agent’s error', async () => {
    const { seen, fail, done } = start([
      '--healthz-bind-address=',
      '--metrics-bind-address=',
      `--admin-socket=${socket()}`,
    ]);
    await expect
      .poll(() =>
        askAgent(socket(), 'GET', '/v1/node').then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
    fail(new Error('the table is gone'));
    await expect(done).rejects.toThrow('the table is gone');
    expect(seen.stopped).toBe(1);
  });

  it('a taken port ends it only with --bind-address-hard-fail', async () => {
    const blocker = createServer();
    await new Promise<void>((resolve) => blocker.listen(0, '127.0.0.1', resolve));
    const { port } = blocker.address() as { port: number };
    const { seen, done } = start([
      `--healthz-bind-address=127.0.0.1:${port}`,
      '--metrics-bind-address=',
      '--admin-socket=',
      '--bind-address-hard-fail',
    ]);
    await expect(done).rejects.toThrow(/healthz: cannot listen on 127\.0\.0\.1/);
    expect(seen.stopped).toBe(1);
    await new Promise((resolve) => blocker.close(resolve));
  });

  it('writes its configuration and ends', async () => {
    const file = path.join(folder, 'written.yaml');
    const { seen, done } = start(['--proxy-mode=nft', `--write-config-to=${file}`]);
    await done;
    expect(seen.started).toEqual([]);
    expect(readFileSync(file, 'utf8')).toContain('mode: nftables\n');
  });
});

describe('following a file', () => {
  it('sees a new text, not a touched file, and survives its absence', async () => {
    const file = path.join(folder, 'f');
    writeFileSync(file, 'one');
    let changes = 0;
    const end = followFile(file, 'one', () => changes++, 10);
    writeFileSync(file, 'one');
    rmSync(file);
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(changes).toBe(0);
    writeFileSync(file, 'two');
    await expect.poll(() => changes).toBe(1);
    end();
  });
});
