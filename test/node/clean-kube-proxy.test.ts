/** `triplane cleanup --kube-proxy` in a namespace where there is what kube-proxy would have made. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildProgram, kernel, PROGRAM } from '../agent/support/node.ts';
import { type Bare, bareNamespaces } from '../support/namespaces.ts';
import { skipUnless } from '../support/skip.ts';

const hasIptables = spawnSync('iptables-restore', ['--version']).status === 0;

kernel.describe('triplane cleanup --kube-proxy', () => {
  let bare: Bare;
  const inside = (command: string[], input = '') =>
    spawnSync('nsenter', [`--net=${bare.paths[0]}`, ...command], { encoding: 'utf8', input });
  const cleanup = () => inside([...PROGRAM, 'cleanup', '--kube-proxy']);
  beforeAll(async () => {
    buildProgram();
    bare = await bareNamespaces(1);
  });
  afterAll(() => bare?.remove());

  test('nothing there is no error', () => {
    const { status, stdout } = cleanup();
    expect([status, stdout]).toEqual([0, 'there was nothing to remove\n']);
  });

  test('tools that this user may not run count as not installed', () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), `triplane-tools-${process.pid}-`));
    try {
      for (const tool of ['iptables-legacy-save', 'iptables-save', 'ipset'])
        writeFileSync(path.join(folder, tool), '', { mode: 0o644 });
      const { status, stdout, stderr } = inside([
        '/usr/bin/env',
        `PATH=${folder}`,
        ...PROGRAM,
        'cleanup',
        '--kube-proxy',
      ]);
      expect([status, stdout, stderr]).toEqual([0, 'there was nothing to remove\n', '']);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('the tables of nftables mode go, those of others stay', () => {
    const text = ['ip kube-proxy', 'ip6 kube-proxy', 'ip mine', 'inet kube-proxy-not']
      .map((table) => `add table ${table}\nadd chain ${table} c { type filter hook input priority 0; }\n`)
      .join('');
    expect(inside(['nft', '-f', '-'], text).stderr).toBe('');
    const { status, stdout } = cleanup();
    expect(status).toBe(0);
    expect(stdout).toBe(
      'kube-proxy: removed nftables table ip kube-proxy\nkube-proxy: removed nftables table ip6 kube-proxy\n',
    );
    expect(inside(['nft', 'list', 'tables']).stdout).toBe('table ip mine\ntable inet kube-proxy-not\n');
  });

  skipUnless(hasIptables, 'needs iptables').test(
    'the chains of iptables mode go, those of others stay',
    () => {
      const rules = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
:KUBE-SEP-3DGKXKWZB3W5OGAR - [0:0]
:MINE - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j MINE
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/kubernetes:https cluster IP" -m tcp --dport 443 -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-SVC-NPX46M4PTMTKRN6Y -j KUBE-SEP-3DGKXKWZB3W5OGAR
-A KUBE-SEP-3DGKXKWZB3W5OGAR -p tcp -m tcp -j DNAT --to-destination 10.0.0.1:6443
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A INPUT -j KUBE-FIREWALL
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
`;
      expect(inside(['iptables-restore'], rules).stderr).toBe('');
      const { status, stdout, stderr } = cleanup();
      expect([status, stderr]).toEqual([0, '']);
      expect(stdout).toMatch(/kube-proxy: removed iptables\S*: 4 chains and \d+ rules/);
      const left = inside(['iptables-save']).stdout;
      expect(left).not.toMatch(/KUBE-(SERVICES|SVC|SEP|FORWARD)/);
      expect(left).toMatch(/-A PREROUTING -j MINE/);
      expect(left).toMatch(/-A INPUT -j KUBE-FIREWALL/);
      expect(cleanup().stdout).toBe('there was nothing to remove\n');
    },
  );
});
