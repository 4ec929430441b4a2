/** `triplane cleanup --kube-proxy` in a namespace where there is what kube-proxy would have made. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
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

  /** The kernel's half is test/agent/ipvs-takeover.test.ts, where there is IPVS. */
  test("of ipvs mode: what carries connections stays until --now, and what is not kube-proxy's always", () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), `triplane-tools-${process.pid}-`));
    const listed = `TCP  10.96.0.10:9000 rr
  -> 10.10.1.5:80                 Masq    1      2          1
  -> 10.10.2.5:80                 Masq    0      0          0
TCP  10.96.0.12:9000 rr
  -> 10.10.1.5:80                 Masq    1      0          0
UDP  192.0.2.11:30900 rr
TCP  192.0.2.11:22000 rr
FWM  378 rr
`;
    const tool = (name: string, script: string) =>
      writeFileSync(path.join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const calls = path.join(folder, 'calls');
    tool('ipvsadm', `[ "$1" = -L ] && cat ${folder}/listed || echo "$@" >> ${calls}`);
    const sets = ['KUBE-NODE-PORT-UDP', 'KUBE-CLUSTER-IP', 'KUBE-MINE'];
    const saved = `${sets.map((name) => `create ${name} bitmap:port`).join('\n')}\nadd ${sets[0]} 30900`;
    tool('ipset', `[ "$1" = save ] && echo "${saved}" || echo ipset "$@" >> ${calls}`);
    writeFileSync(path.join(folder, 'listed'), listed);
    const run = (...more: string[]) => {
      writeFileSync(calls, '');
      const env = [
        '/usr/bin/env',
        `PATH=${folder}:/usr/bin:/bin`,
        ...PROGRAM,
        'cleanup',
        '--kube-proxy',
        ...more,
      ];
      const { status, stderr, stdout } = inside(env);
      expect([status, stderr]).toEqual([0, '']);
      return { stdout, calls: readFileSync(calls, 'utf8').trim().split('\n') };
    };
    try {
      for (const command of ['link add kube-ipvs0 type bridge', 'addr add 10.96.0.10/32 dev kube-ipvs0'])
        inside(['ip', ...command.split(' ')]);
      inside(['ip', 'addr', 'add', '10.96.0.12/32', 'dev', 'kube-ipvs0']);
      const first = run();
      expect(first.calls).toEqual([
        '-e -t 10.96.0.10:9000 -r 10.10.1.5:80 -m -w 0',
        '-D -t 10.96.0.12:9000',
        '-D -u 192.0.2.11:30900',
        'ipset destroy KUBE-CLUSTER-IP',
      ]);
      expect(first.stdout).toContain('left IPVS service 10.96.0.10:9000/tcp: it carries 3 connections');
      expect(inside(['ip', '-o', '-4', 'addr', 'show', 'dev', 'kube-ipvs0']).stdout).toMatch(
        /^(?!.*10\.96\.0\.12).*10\.96\.0\.10/,
      );
      const all = run('--now');
      expect(all.calls).toEqual([
        '-D -t 10.96.0.10:9000',
        // Its address is no more on the device.
        '-D -u 192.0.2.11:30900',
        ...['ipset destroy KUBE-NODE-PORT-UDP', 'ipset destroy KUBE-CLUSTER-IP'],
      ]);
      expect(all.stdout).toContain('removed device kube-ipvs0');
      expect(inside(['ip', 'link', 'show', 'kube-ipvs0']).status).not.toBe(0);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
