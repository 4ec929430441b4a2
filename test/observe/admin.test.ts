import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { AgentControl, Explanation, SwitchResult } from '../../src/agent/status.ts';
import { askAgent } from '../../src/cli/admin-client.ts';
import { TriplaneError } from '../../src/model/errors.ts';
import { type AdminNode, type AdminServer, type AdminStatus, serveAdmin } from '../../src/observe/admin.ts';
import { keepAdmin } from '../../src/observe/admin-keeper.ts';
import { refusingControl, TestAgent } from './support/agent.ts';

let folder: string;
let socketPath: string;
let server: AdminServer | undefined;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), `triplane-admin-${process.pid}-`));
  socketPath = path.join(folder, 'run', 'a.sock');
});
afterEach(async () => {
  await server?.close();
  server = undefined;
  rmSync(folder, { recursive: true, force: true });
});
const start = async (control: AgentControl = refusingControl) => {
  server = await serveAdmin({ socketPath, status: new TestAgent(), control, version: '1.2.3' });
};
const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'nothing',
    (error: TriplaneError) => error.code,
  );

describe('the socket', () => {
  it('is its owner’s alone, and goes with the agent', async () => {
    await start();
    expect(statSync(path.dirname(socketPath)).mode & 0o777).toBe(0o700);
    expect(statSync(socketPath).mode & 0o777).toBe(0o600);
    await server!.close();
    expect(existsSync(socketPath)).toBe(false);
  });

  it('of a dead agent is replaced', async () => {
    mkdirSync(path.dirname(socketPath), { mode: 0o700 });
    const script = `require('net').createServer().listen(process.argv[1],()=>process.kill(process.pid,'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', script, socketPath]);
    expect(statSync(socketPath).isSocket()).toBe(true);
    await start();
    expect((await askAgent<AdminStatus>(socketPath, 'GET', '/v1/status')).version).toBe('1.2.3');
  });

  it('of a living one is not', async () => {
    await start();
    expect(
      await codeOf(
        serveAdmin({ socketPath, status: new TestAgent(), control: refusingControl, version: '1' }),
      ),
    ).toBe('TP_LOCKED');
    expect((await askAgent<AdminStatus>(socketPath, 'GET', '/v1/status')).version).toBe('1.2.3');
  });

  it('comes back where somebody has taken it away, alone or with its folder', async () => {
    const said: string[] = [];
    const note = (_: object, message: string) => void said.push(message);
    const log = { error: note, warn: note, info: note, debug: note, trace: note };
    const options = { socketPath, status: new TestAgent(), control: refusingControl, version: '1', log };
    server = await keepAdmin({ ...options, lookMs: 10 });
    const answers = async () => (await askAgent<AdminStatus>(socketPath, 'GET', '/v1/status')).version;
    for (const gone of [socketPath, path.dirname(socketPath)]) {
      rmSync(gone, { recursive: true });
      await vi.waitFor(async () => expect(await answers()).toBe('1'), 20_000);
    }
    // It answers before its keeper has heard that it listens.
    await vi.waitFor(
      () => expect(said).toEqual(Array(2).fill('the admin socket was gone: made anew')),
      20_000,
    );
  });

  it('of which there is another one is refused at once', async () => {
    await start();
    const log = { error() {}, warn() {}, info() {}, debug() {}, trace() {} };
    const options = { socketPath, status: new TestAgent(), control: refusingControl, version: '1', log };
    expect(await codeOf(keepAdmin(options))).toBe('TP_LOCKED');
  });

  it('never takes the place of something else', async () => {
    mkdirSync(path.dirname(socketPath), { mode: 0o700 });
    writeFileSync(socketPath, 'precious');
    expect(await codeOf(start())).toBe('TP_BAD_FLAG');
    rmSync(socketPath);
    const target = path.join(folder, 'target');
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(target, resolve));
    symlinkSync(target, socketPath);
    expect(await codeOf(start())).toBe('TP_BAD_FLAG');
    await new Promise((resolve) => other.close(resolve));
  });

  it('is not put where others may write', async () => {
    mkdirSync(path.dirname(socketPath));
    chmodSync(path.dirname(socketPath), 0o777);
    expect(await codeOf(start())).toBe('TP_BAD_FLAG');
  });
});

describe('what it answers', () => {
  const request = { source: '10.0.0.1', destination: '10.96.0.1', port: 80, protocol: 'TCP', from: 'pod' };

  it('status and node', async () => {
    await start();
    const status = await askAgent<AdminStatus>(socketPath, 'GET', '/v1/status');
    expect(status).toMatchObject({
      synced: true,
      mode: { mode: 'nft' },
      counts: { services: 3 },
      progress: { ipv6: null },
    });
    expect(await askAgent<AdminNode>(socketPath, 'GET', '/v1/node')).toMatchObject({
      name: 'n1',
      mode: { mode: 'nft' },
      holdup: '',
      problems: [],
    });
  });

  it('passes explain and switch on', async () => {
    const asked: unknown[] = [];
    const explanation: Explanation = { action: 'drop', outcome: 'dropped', backends: [], because: ['a'] };
    const switched: SwitchResult = { from: 'nft', to: 'ipvs', draining: 0, durationMs: 1 };
    await start({
      explain: async (packet) => {
        asked.push(packet);
        return explanation;
      },
      switchMode: async (mode) => {
        asked.push(mode);
        return switched;
      },
    });
    expect(await askAgent(socketPath, 'POST', '/v1/explain', request)).toEqual(explanation);
    expect(await askAgent(socketPath, 'POST', '/v1/switch', { mode: 'ipvs' })).toEqual(switched);
    expect(asked).toEqual([{ ...request, interfaceName: '' }, 'ipvs']);
  });

  it.each([
    ['/v1/explain', { ...request, source: 'x' }],
    ['/v1/explain', { ...request, destination: 3 }],
    ['/v1/explain', { ...request, port: 0 }],
    ['/v1/explain', { ...request, protocol: 'ICMP' }],
    ['/v1/explain', { ...request, from: 'mars' }],
    ['/v1/explain', [1]],
    ['/v1/explain', { pad: 'x'.repeat(70_000) }],
    ['/v1/switch', { mode: 'iptables' }],
    ['/v1/switch', {}],
    ['/v1/other', {}],
  ])('%s refuses %j', async (where, body) => {
    await start();
    expect(await codeOf(askAgent(socketPath, 'POST', where, body))).toBe('TP_BAD_FLAG');
  });

  it('errors of the agent keep their code', async () => {
    await start({
      ...refusingControl,
      switchMode: async () => {
        throw new TriplaneError('TP_NO_FEATURE', 'no ip_vs');
      },
    });
    await expect(askAgent(socketPath, 'POST', '/v1/switch', { mode: 'ipvs' })).rejects.toMatchObject({
      code: 'TP_NO_FEATURE',
      message: 'no ip_vs',
    });
    await expect(askAgent(socketPath, 'POST', '/v1/explain', request)).rejects.toThrow('not asked for');
  });

  it('an absent agent has a code of its own', async () => {
    expect(await codeOf(askAgent(socketPath, 'GET', '/v1/node'))).toBe('TP_NO_AGENT');
  });
});
