/** What the image is made of: the packages that it installs, and the tree that it runs from. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PACKAGES } from '../../scripts/lib/packages.mjs';
import { buildProgram } from '../agent/support/node.ts';
import { ROOT } from '../support/checkout.ts';
import { manifests, readDeploy } from './support.ts';

const stages = readDeploy('Containerfile')
  .split(/^FROM /m)
  .slice(1);
/** What one stage installs through apt, sorted. */
function installed(stage: string): string[] {
  const [, list] = /--no-install-recommends ([\w.+ -]+)/.exec(stage)!;
  return list!.trim().split(/\s+/).sort();
}

describe('the container file', () => {
  test('builds with the packages that setup installs for building', () => {
    const rows = PACKAGES as readonly { name: string; use: string }[];
    // Official Node images bring their headers.
    const build = rows.filter(({ name, use }) => use === 'build' && name !== 'libnode-dev');
    expect(installed(stages[0]!)).toEqual(build.map(({ name }) => name).sort());
  });

  test('runs with the libraries that the addon is linked to, libnftables, and what cleanup --kube-proxy calls', () => {
    const { stdout } = spawnSync('ldd', [path.join(ROOT, 'build/Release/triplane.node')], {
      encoding: 'utf8',
    });
    const linked = [...stdout.matchAll(/lib(bpf|mnl|nftnl)\.so\.(\d+)/g)].map(
      ([, name, major]) => `lib${name}${major}`,
    );
    const called = ['ipset', 'iptables', 'ipvsadm'];
    expect(installed(stages[1]!)).toEqual([...new Set(linked), 'libnftables1', ...called].sort());
  });

  test('both stages are one Debian, and a Node that is maintained', () => {
    expect(stages.map((stage) => stage.split('\n')[0]!.split(' ')[0])).toEqual(
      Array(2).fill(expect.stringMatching(/^docker\.io\/library\/node:\$\{NODE\}-\$\{DEBIAN\}-slim$/)),
    );
    expect(readDeploy('Containerfile')).toMatch(/^ARG NODE=(24|26)$/m);
  });
});

describe('the tree that runs', () => {
  let folder: string;
  beforeAll(() => {
    buildProgram();
    folder = mkdtempSync(path.join(os.tmpdir(), `triplane-image-${process.pid}-`));
    const { status, stderr } = spawnSync('sh', ['deploy/collect.sh', folder], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    if (status !== 0) throw new Error(stderr);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test('holds no sources, no maps and no other package', () => {
    expect(readdirSync(folder).sort()).toEqual(
      ['LICENSE', 'LICENSES', 'bin', 'build', 'dist', 'node_modules', 'package.json'].sort(),
    );
    expect(readdirSync(path.join(folder, 'node_modules')).sort()).toEqual(['@yuuang', 'ffi-rs']);
    expect(readdirSync(path.join(folder, 'dist')).filter((name) => !name.endsWith('.mjs'))).toEqual([]);
  });

  test('answers to the name of kube-proxy, with kube-proxy’s flags', () => {
    const onPath = path.join(folder, 'path');
    mkdirSync(onPath);
    symlinkSync(path.join(folder, 'bin/triplane'), path.join(onPath, 'triplane'));
    const args = [
      '--proxy-mode=iptables',
      '--cluster-cidr=10.0.0.0/8',
      '--hostname-override=n1',
      '--write-config-to=-',
    ];
    const { status, stdout, stderr } = spawnSync(path.join(ROOT, 'deploy/kube-proxy'), args, {
      ...{ encoding: 'utf8', env: { PATH: `${onPath}:${path.dirname(process.execPath)}:/usr/bin:/bin` } },
    });
    expect(status).toBe(0);
    expect(stdout).toMatch(/clusterCIDR: 10\.0\.0\.0\/8\n[\s\S]*hostnameOverride: n1\n[\s\S]*mode: auto\n/);
    expect(stderr).toMatch(/there is no iptables mode here/);
    rmSync(onPath, { recursive: true });
  });

  test('runs from where it stands', () => {
    const run = (...args: string[]) =>
      spawnSync(process.execPath, [path.join(folder, 'bin/triplane'), ...args], {
        cwd: '/',
        encoding: 'utf8',
      });
    expect(run('version').stdout).toMatch(/^triplane \d/);
    const written = run('run', '--write-config-to=-', '--proxy-mode=nft');
    expect(written.status).toBe(0);
    expect(written.stdout).toContain('mode: nftables');
  });
});

describe('the systemd unit', () => {
  test('leaves the agent the capabilities that the manifests leave it', () => {
    const unit = readDeploy('systemd/triplane.service');
    const bounding = /^CapabilityBoundingSet=(.*)$/m.exec(unit)![1]!.split(' ');
    const pod = manifests().find(({ kind }) => kind === 'DaemonSet')!.spec.template.spec.containers[0];
    expect(bounding.map((name) => name.replace('CAP_', ''))).toEqual(pod.securityContext.capabilities.add);
    expect(unit).toMatch(/^RestartPreventExitStatus=2$/m);
  });
});
