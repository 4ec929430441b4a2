/**
 * The agent with exactly the capabilities that deploy/ leaves it, on a root file system and a /proc/sys that cannot
 * be written; and without one of them.
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { WEB_PORT, webService, webSlices } from '../../src/lab/examples.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import { manifests } from '../deploy/support.ts';
import { hasIpvs } from '../support/ipvs.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SLOWNESS } from '../support/slowness.ts';
import { buildProgram, eventually, healthz, OwnAgent, PROGRAM, statusOf, triplane } from './support/node.ts';

const hasSetpriv = spawnSync('setpriv', ['--version']).status === 0;
const root = skipUnless(privilege() === 'root' && hasSetpriv, 'needs root and setpriv');
/** In an emulated kernel, which is booted for ipvs, the other modes would take long and have been played outside of it. */
const OTHERS = SLOWNESS > 1 ? [] : ['nft', 'ebpf'];
const MODES = hasIpvs() ? ['ipvs', ...OTHERS] : OTHERS;

/** As the chart gives them to the container, in setpriv's words. */
function granted(mode: string): string[] {
  const pod = manifests({ mode }).find(({ kind }) => kind === 'DaemonSet')!.spec.template.spec;
  const { add } = pod.containers[0].securityContext.capabilities as { add: string[] };
  return add.map((name) => name.toLowerCase());
}

function withOnly(capabilities: readonly string[]): string[] {
  const set = ['-all', ...capabilities.map((name) => `+${name}`)].join(',');
  return ['setpriv', `--bounding-set=${set}`, `--inh-caps=${set}`, '--no-new-privs'];
}

/** A mount namespace in which only `writable` can be written, like a container with a read-only root. */
function readOnly(writable: readonly string[]): string[] {
  const script = [
    'set -e',
    'mount --make-rprivate /',
    'mount --bind /proc/sys /proc/sys',
    'mount -o remount,bind,ro /proc/sys',
    ...writable.map((folder) => `mount --bind ${folder} ${folder}`),
    'mount -o remount,bind,ro /',
    'exec "$@"',
  ];
  return ['unshare', '-m', 'sh', '-c', script.join('\n'), 'sh'];
}

root.describe('an agent with the capabilities of its mode', () => {
  let lab: Lab;
  let agent: OwnAgent | undefined;
  const folder = () => path.dirname(lab.manifests.path);
  const argsOf = (mode: string) => [
    ...['--proxy-mode', mode, '--manifests', lab.manifests.path, '--cluster-cidr', '10.10.0.0/16'],
    ...['--bpf-root', `/sys/fs/bpf/caps-${process.pid}`, '--cgroup-root', lab.nodeCgroup('cp') ?? ''],
  ];
  beforeAll(async () => {
    buildProgram();
    lab = await createLab({
      ...{ name: `caps-${process.pid}`, nodes: [{ name: 'cp' }], cgroups: 'per-pod' },
      pods: ['net-pod', 'webpod1'].map((name) => ({ name, node: 'cp', labels: { app: 'web' } })),
    });
    lab.manifests.write('web', [webService(lab), ...webSlices(lab, [lab.pod('webpod1').plan])]);
  });
  afterEach(async () => {
    await agent?.stop();
    await triplane(lab.node('cp'), 'cleanup');
  });
  afterAll(() => lab?.down());

  test.each(MODES)('%s: serves, follows changes and ends, and nothing else is written', async (mode) => {
    const under = [...readOnly([folder(), '/sys/fs/bpf']), ...withOnly(granted(mode))];
    agent = await new OwnAgent(lab, 'cp', argsOf(mode), {}, under).ready();
    const ask = async () =>
      (await lab.pod('net-pod').ask('tcp', serviceAddress(4, 10), WEB_PORT, { timeoutMs: 1000 })).outcome;
    expect(await ask()).toBe('ok');
    expect(await healthz(lab.node('cp'))).toBe(200);
    lab.manifests.write('web', [webService(lab)]);
    await eventually(ask).toBe('refused');
    lab.manifests.write('web', [webService(lab), ...webSlices(lab, [lab.pod('webpod1').plan])]);
    await eventually(ask).toBe('ok');
    expect((await statusOf(agent.adminSocket)).problems).toEqual([]);
    expect(agent.text).toMatch(/mounted read-only/);
    await agent.stop();
    expect(agent.child.exitCode).toBe(0);
  });

  test.each(MODES.flatMap((mode) => granted(mode).map((missing) => ({ mode, missing }))))(
    '$mode without $missing ends with a sentence that names it',
    async ({ mode, missing }) => {
      const left = granted(mode).filter((name) => name !== missing);
      const command = [...withOnly(left), ...PROGRAM, 'run', '--hostname-override', 'cp', '--admin-socket='];
      const { status, stderr } = await lab.node('cp').exec([...command, ...argsOf(mode)]);
      expect(stderr).toMatch(
        new RegExp(`TP_NO_PRIVILEGE: cannot .*: CAP_${missing.toUpperCase()} is missing`),
      );
      expect(status).toBe(1);
    },
  );

  test('--init-only sets what ebpf mode could not set by itself, and sets it once', async () => {
    const read = async (name: string) =>
      (await lab.node('cp').exec(['cat', `/proc/sys/net/ipv4/${name}`])).stdout.trim();
    const init = (mode: string) =>
      lab
        .node('cp')
        .exec([...PROGRAM, 'run', '--init-only', `--proxy-mode=${mode}`, '--logging-format=text']);
    // In other modes it has no business there.
    expect((await init('nft')).status).toBe(0);
    expect(await read('conf/lo/accept_local')).toBe('0');
    expect((await init('ebpf')).status).toBe(0);
    expect(await read('ip_local_reserved_ports')).toContain('61000-65535');
    expect(await read('conf/lo/accept_local')).toBe('1');
    expect((await init('ebpf')).stderr).not.toMatch(/set net\.ipv4/);
  });
});
