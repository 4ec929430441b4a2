import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type Config, compareConfigs, resolveConfig, takeOver } from '../../src/config/config.ts';
import { parseConfigFile } from '../../src/config/file.ts';
import { OPTIONS } from '../../src/config/options.ts';
import { configurationReference } from '../../src/config/reference.ts';
import type { OptionSpec } from '../../src/config/spec.ts';
import { configurationYaml, kubeProxyConfiguration } from '../../src/config/write.ts';
import { TriplaneError } from '../../src/model/errors.ts';

const fixture = (name: string) => readFileSync(new URL(`fixtures/${name}`, import.meta.url), 'utf8');
const HEAD = 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n';

/** `--flag=value` texts and, optionally, a file. */
function resolve(args: readonly string[], file?: string) {
  const flags = new Map<string, string[]>();
  for (const arg of args) {
    const [, flag, text] = /^--([\w-]+)=(.*)$/s.exec(arg)!;
    flags.set(flag!, [...(flags.get(flag!) ?? []), text!]);
  }
  return resolveConfig(flags, file === undefined ? null : parseConfigFile(file, 'proxy.yaml'));
}

function failure(act: () => unknown): TriplaneError {
  try {
    act();
  } catch (error) {
    if (error instanceof TriplaneError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const LONG = `/${'x'.repeat(107)}`;
type Good = readonly [string, keyof Config, unknown];

/** For every flag that works: values and what becomes of them. */
const GOOD: readonly Good[] = [
  ['--kubeconfig=/k', 'kubeconfig', '/k'],
  ['--master=https://1.2.3.4:6443', 'master', 'https://1.2.3.4:6443'],
  ['--master=host:8080', 'master', 'host:8080'],
  ['--manifests=dir', 'manifests', 'dir'],
  ['--hostname-override= Node-1 ', 'hostnameOverride', 'node-1'],
  ['--hostname-override=', 'hostnameOverride', ''],
  ['--bind-address=::1', 'bindAddress', '::1'],
  ['--bind-address=10.0.0.010', 'bindAddress', '10.0.0.10'],
  ['--proxy-mode=nft', 'proxyMode', 'nft'],
  ['--proxy-mode=nftables', 'proxyMode', 'nft'],
  ['--proxy-mode=iptables', 'proxyMode', 'auto'],
  ['--proxy-mode=ipvs', 'proxyMode', 'ipvs'],
  ['--proxy-mode=ebpf', 'proxyMode', 'ebpf'],
  ['--proxy-mode=auto', 'proxyMode', 'auto'],
  ['--proxy-mode=', 'proxyMode', 'auto'],
  ['--detect-local-mode=', 'detectLocalMode', 'ClusterCIDR'],
  ['--detect-local-mode=NodeCIDR', 'detectLocalMode', 'NodeCIDR'],
  ['--cluster-cidr=10.0.0.1/8', 'clusterCIDRs', ['10.0.0.0/8']],
  ['--cluster-cidr=fd00::/48, 10.0.0.0/8', 'clusterCIDRs', ['fd00::/48', '10.0.0.0/8']],
  ['--cluster-cidr=', 'clusterCIDRs', []],
  ['--pod-bridge-interface=cbr0', 'podBridgeInterface', 'cbr0'],
  ['--pod-interface-name-prefix=veth', 'podInterfaceNamePrefix', 'veth'],
  ['--nodeport-addresses=primary', 'nodePortAddresses', { by: 'primary' }],
  ['--nodeport-addresses=', 'nodePortAddresses', { by: 'primary' }],
  ['--nodeport-addresses=all', 'nodePortAddresses', { by: 'cidrs', cidrs: ['0.0.0.0/0', '::/0'] }],
  [
    '--nodeport-addresses=10.0.0.0/8,fd00::/8',
    'nodePortAddresses',
    { by: 'cidrs', cidrs: ['10.0.0.0/8', 'fd00::/8'] },
  ],
  ['--service-cidrs=10.96.0.0/12,fd00::/108', 'serviceCIDRs', ['10.96.0.0/12', 'fd00::/108']],
  [
    '--external-ip-cidrs=203.0.113.0/24,2001:db8::/32',
    'externalIPCidrs',
    ['203.0.113.0/24', '2001:db8::/32'],
  ],
  ['--external-ip-cidrs=', 'externalIPCidrs', []],
  ['--masquerade-all=true', 'masqueradeAll', true],
  ['--masquerade-all=0', 'masqueradeAll', false],
  ['--sync-period=1ns', 'syncPeriodMs', 0.000001],
  ['--sync-period=1m30s', 'syncPeriodMs', 90_000],
  ['--min-sync-period=30s', 'minSyncPeriodMs', 30_000],
  ['--min-sync-period=0', 'minSyncPeriodMs', 0],
  ['--iptables-sync-period=7s', 'syncPeriodMs', 7000],
  ['--iptables-min-sync-period=7s', 'minSyncPeriodMs', 7000],
  ['--healthz-bind-address=1.2.3.4:5', 'healthzBind', { address: '1.2.3.4', port: 5 }],
  ['--healthz-bind-address=1.2.3.4', 'healthzBind', { address: '1.2.3.4', port: 10256 }],
  ['--healthz-bind-address=[::]:65535', 'healthzBind', { address: '::', port: 65535 }],
  ['--healthz-bind-address=::', 'healthzBind', { address: '::', port: 10256 }],
  ['--healthz-bind-address=', 'healthzBind', null],
  ['--healthz-bind-address=none', 'healthzBind', null],
  ['--healthz-port=0', 'healthzBind', null],
  ['--healthz-port=1234', 'healthzBind', { address: '0.0.0.0', port: 10256 }],
  ['--metrics-bind-address=[::1]:1', 'metricsBind', { address: '::1', port: 1 }],
  ['--metrics-bind-address=', 'metricsBind', null],
  ['--metrics-port=0', 'metricsBind', null],
  ['--bind-address-hard-fail=TRUE', 'bindAddressHardFail', true],
  ['--profiling=t', 'profiling', true],
  ['--admin-socket=/run/x.sock', 'adminSocket', '/run/x.sock'],
  ['--admin-socket=', 'adminSocket', ''],
  ['--traffic-metrics=traffic', 'trafficMetrics', 'traffic'],
  ['--traffic-metrics=connections', 'trafficMetrics', 'connections'],
  ['--traffic-metrics-by=endpoint', 'trafficMetricsBy', 'endpoint'],
  ['--conntrack-max-per-core=0', 'conntrackMaxPerCore', 0],
  ['--conntrack-min=1', 'conntrackMin', 1],
  ['--conntrack-tcp-timeout-established=0', 'conntrackTcpEstablishedMs', 0],
  ['--conntrack-tcp-timeout-close-wait=10s', 'conntrackTcpCloseWaitMs', 10_000],
  ['--conntrack-tcp-be-liberal=true', 'conntrackTcpBeLiberal', true],
  ['--conntrack-udp-timeout=10s', 'conntrackUdpMs', 10_000],
  ['--conntrack-udp-timeout-stream=10s', 'conntrackUdpStreamMs', 10_000],
  ['--oom-score-adj=-1000', 'oomScoreAdj', -1000],
  ['--oom-score-adj=1000', 'oomScoreAdj', 1000],
  ['--init-only=true', 'initOnly', true],
  ['--ipvs-scheduler=mh', 'ipvsScheduler', 'mh'],
  ['--ipvs-exclude-cidrs=10.0.0.0/8,10.0.0.0/9', 'ipvsExcludeCIDRs', ['10.0.0.0/8', '10.0.0.0/9']],
  ['--ipvs-strict-arp=true', 'ipvsStrictArp', true],
  ['--ipvs-tcp-timeout=1h', 'ipvsTcpMs', 3_600_000],
  ['--ipvs-tcpfin-timeout=1s', 'ipvsTcpFinMs', 1000],
  ['--ipvs-udp-timeout=1s', 'ipvsUdpMs', 1000],
  ['--cgroup-root=/sys/fs/cgroup', 'cgroupRoot', '/sys/fs/cgroup'],
  ['--socket-lb=off', 'socketLb', 'off'],
  ['--xdp=generic', 'xdp', 'generic'],
  ['--xdp-forward=never', 'xdpForward', 'never'],
  ['--bpf-root=/sys/fs/bpf/lab-1', 'bpfRoot', '/sys/fs/bpf/lab-1'],
  ['--bpf-services-max=1', 'bpfServicesMax', 1],
  ['--bpf-backends-max=67108864', 'bpfBackendsMax', 67108864],
  ['--bpf-connections-max=1024', 'bpfConnectionsMax', 1024],
  ['--v=5', 'verbosity', 5],
  ['--v=99', 'verbosity', 99],
  ['--logging-format=json', 'loggingFormat', 'json'],
  ['--config=', 'configFile', ''],
];

/** Flag, bad value, what the message must say. */
const BAD: readonly (readonly [string, string, RegExp])[] = [
  ['traffic-metrics', 'on', /off, connections, traffic/],
  ['traffic-metrics-by', 'pod', /service, endpoint/],
  ['master', 'ftp://x', /http or https/],
  ['master', 'http://[', /http or https/],
  ['kubeconfig', 'a\nb', /control character/],
  ['hostname-override', '   ', /blank/],
  ['hostname-override', 'a_b', /name of a Node/],
  ['hostname-override', '-a', /name of a Node/],
  ['bind-address', '[::]', /not an IP address/],
  ['bind-address', '1.2.3', /not an IP address/],
  ['bind-address', '', /not an IP address/],
  ['proxy-mode', 'kernelspace', /auto, nft, ipvs, ebpf, nftables, iptables/],
  ['proxy-mode', 'userspace', /not one of/],
  ['proxy-mode', 'constructor', /not one of/],
  ['detect-local-mode', 'clustercidr', /ClusterCIDR, NodeCIDR/],
  ['detect-local-mode', 'BridgeInterface', /must be given/],
  ['cluster-cidr', '10.0.0.0/33', /not a CIDR/],
  ['cluster-cidr', '10.0.0.0', /not a CIDR/],
  ['cluster-cidr', '10.0.0.0/8,11.0.0.0/8', /pair/],
  ['cluster-cidr', '10.0.0.0/8,fd00::/8,fd01::/16', /pair/],
  ['cluster-cidr', '10.0.0.0/8,', /not a CIDR/],
  ['pod-bridge-interface', 'a-name-of-16-byt', /interface name/],
  ['pod-bridge-interface', 'a/b', /interface name/],
  ['pod-interface-name-prefix', 've th', /interface name/],
  ['nodeport-addresses', 'primary,10.0.0.0/8', /stand alone/],
  ['nodeport-addresses', 'primry', /not a CIDR/],
  ['service-cidrs', 'x', /not a CIDR/],
  ['external-ip-cidrs', '203.0.113.7', /not a CIDR/],
  ['masquerade-all', 'yes', /true or false/],
  ['masquerade-all', '', /true or false/],
  ['sync-period', '0', /greater than 0/],
  ['sync-period', '30', /units/],
  ['sync-period', '-1s', /greater than 0/],
  ['min-sync-period', '-1ns', /0 or more/],
  ['min-sync-period', '31s', /longer than the sync period/],
  ['iptables-sync-period', 'x', /units/],
  ['iptables-min-sync-period', '-1s', /0 or more/],
  ['ipvs-sync-period', '0s', /greater than 0/],
  ['ipvs-min-sync-period', '-1s', /0 or more/],
  ['healthz-bind-address', 'localhost:80', /address with a port/],
  ['healthz-bind-address', ':80', /address with a port/],
  ['healthz-bind-address', '1.2.3.4:0', /1-65535/],
  ['healthz-bind-address', '1.2.3.4:65536', /1-65535/],
  ['healthz-bind-address', '[::]', /address with a port/],
  ['metrics-bind-address', '1.2.3.4:x', /address with a port/],
  ['healthz-port', '-1', /within 0 and 65535/],
  ['metrics-port', '65536', /within 0 and 65535/],
  ['bind-address-hard-fail', '2', /true or false/],
  ['profiling', 'on', /true or false/],
  ['admin-socket', 'relative', /absolute/],
  ['admin-socket', LONG, /longer than 107/],
  ['conntrack-max-per-core', '-1', /0 or more/],
  ['conntrack-min', '-1', /0 or more/],
  ['conntrack-min', '1.5', /whole number/],
  ['conntrack-min', '99999999999', /0 or more/],
  ['conntrack-tcp-timeout-established', '-1s', /0 or more/],
  ['conntrack-tcp-timeout-close-wait', '1', /units/],
  ['conntrack-tcp-be-liberal', 'x', /true or false/],
  ['conntrack-udp-timeout', '-1s', /0 or more/],
  ['conntrack-udp-timeout-stream', '-1s', /0 or more/],
  ['oom-score-adj', '-1001', /within -1000 and 1000/],
  ['oom-score-adj', '1001', /within -1000 and 1000/],
  ['init-only', 'x', /true or false/],
  ['ipvs-scheduler', 'rrr', /rr, wrr/],
  ['ipvs-exclude-cidrs', '10.0.0.0', /not a CIDR/],
  ['ipvs-strict-arp', 'x', /true or false/],
  ['ipvs-tcp-timeout', '-1s', /0 or more/],
  ['ipvs-tcpfin-timeout', '-1s', /0 or more/],
  ['ipvs-udp-timeout', '-1s', /0 or more/],
  ['cgroup-root', 'relative', /absolute/],
  ['socket-lb', 'pods', /all, host, off/],
  ['xdp', 'fast', /auto, native, generic, off/],
  ['xdp-forward', 'yes', /auto, always, never/],
  ['bpf-root', '/sys/fs/bpf/a.b', /without a dot/],
  ['bpf-root', 'x', /absolute/],
  ['bpf-services-max', '0', /within 1 and/],
  ['bpf-backends-max', '67108865', /within 1 and/],
  ['bpf-connections-max', '1023', /within 1024/],
  ['v', '-1', /0 or more/],
  ['v', 'high', /whole number/],
  ['logging-format', 'klog', /auto, text, json/],
  ['config', 'a\u0000b', /control character/],
  ['manifests', 'a\tb', /control character/],
  ['write-config-to', 'a\nb', /control character/],
  ['cleanup', 'x', /true or false/],
  ['feature-gates', 'A', /name=true/],
  ['feature-gates', 'A=maybe', /true or false/],
  ['kube-api-burst', '-1', /0 or more/],
  ['kube-api-qps', 'x', /not a number/],
  ['kube-api-content-type', 'a\nb', /control character/],
  ['config-sync-period', '0', /greater than 0/],
  ['iptables-masquerade-bit', '32', /within 0 and 31/],
  ['iptables-localhost-nodeports', 'x', /true or false/],
  ['show-hidden-metrics-for-version', 'a\nb', /control character/],
];

/** Flags of klog and the like, of which any value is taken. */
const anything = (spec: OptionSpec) => spec.kind === 'opaque' || /^(klog|log(Text|Json))/.test(spec.key);

describe('flags', () => {
  it.each(GOOD)('%s gives %s', (arg, key, value) => {
    expect(resolve([arg]).config[key]).toEqual(value);
  });

  it.each(BAD)('--%s=%j is refused by name', (flag, text, says) => {
    const error = failure(() => resolve([`--${flag}=${text}`]));
    expect(error.message).toMatch(says);
    expect(error.message).not.toMatch(/[\n\u0000]/);
    expect(error.code).toBe(
      flag === 'detect-local-mode' && text === 'BridgeInterface' ? 'TP_BAD_CONFIG' : 'TP_BAD_FLAG',
    );
    if (error.code === 'TP_BAD_FLAG') expect(error.message).toContain(`--${flag}: `);
  });

  it('the two tables above leave no flag out', () => {
    const rows = (OPTIONS as readonly OptionSpec[]).filter((spec) => spec.flag !== '' && !anything(spec));
    const good = new Set(GOOD.map(([arg]) => arg.slice(2, arg.indexOf('='))));
    const bad = new Set(BAD.map(([flag]) => flag));
    expect(
      rows.filter((spec) => spec.status === 'works' && !good.has(spec.flag)).map((spec) => spec.flag),
    ).toEqual([]);
    expect(rows.filter((spec) => !bad.has(spec.flag)).map((spec) => spec.flag)).toEqual([]);
  });

  it('all that is wrong is said at once', () => {
    expect(failure(() => resolve(['--v=x', '--sync-period=1'])).message).toMatch(/--sync-period: .*; --v: /);
  });

  it('a list that is given twice grows, a scalar is replaced', () => {
    const { config } = resolve([
      '--nodeport-addresses=10.0.0.0/8',
      '--nodeport-addresses=11.0.0.0/8',
      '--v=1',
      '--v=2',
    ]);
    expect(config.nodePortAddresses).toEqual({ by: 'cidrs', cidrs: ['10.0.0.0/8', '11.0.0.0/8'] });
    expect(config.verbosity).toBe(2);
  });

  it('the deprecated ports count where the address names none', () => {
    const { config, warnings } = resolve(['--healthz-bind-address=127.0.0.1', '--healthz-port=99']);
    expect(config.healthzBind).toEqual({ address: '127.0.0.1', port: 99 });
    expect(warnings.join()).toMatch(/--healthz-port is deprecated: use --healthz-bind-address/);
  });

  it('an IPv6 bind address moves the default servers', () => {
    const { config } = resolve(['--bind-address=fd00::1']);
    expect(config.healthzBind).toEqual({ address: '::', port: 10256 });
    expect(config.metricsBind).toEqual({ address: '::1', port: 10249 });
  });

  it('the periods of another mode do not count', () => {
    expect(resolve(['--proxy-mode=ipvs', '--iptables-sync-period=9s']).config.syncPeriodMs).toBe(30_000);
    expect(resolve(['--proxy-mode=ipvs', '--ipvs-sync-period=9s']).config.syncPeriodMs).toBe(9000);
    expect(resolve(['--proxy-mode=nft', '--iptables-sync-period=9s']).config.syncPeriodMs).toBe(9000);
    expect(resolve(['--iptables-sync-period=9s', '--sync-period=8s']).config.syncPeriodMs).toBe(8000);
  });

  it('what has no meaning here is named once', () => {
    const { warnings } = resolve([
      '--feature-gates=A=true,B=false',
      '--iptables-masquerade-bit=3',
      '--kube-api-qps=5',
      '--logtostderr=true',
    ]);
    expect(warnings).toEqual(['accepted without meaning here: --feature-gates, --iptables-masquerade-bit']);
  });

  it('the config is frozen through and through', () => {
    const { config } = resolve(['--nodeport-addresses=10.0.0.0/8']);
    expect(Object.isFrozen(config)).toBe(true);
    expect(() => ((config.nodePortAddresses as { by: string }).by = 'x')).toThrow();
    expect(() => (config.clusterCIDRs as unknown[]).push('x')).toThrow();
  });
});

describe('the file', () => {
  it('kubeadm’s reads as the defaults, without a warning', () => {
    const { config, warnings } = resolve([], fixture('kubeadm.yaml'));
    expect(warnings).toEqual([]);
    expect(config).toEqual({
      ...resolve([]).config,
      kubeconfig: '/var/lib/kube-proxy/kubeconfig.conf',
      clusterCIDRs: ['10.244.0.0/16', 'fd00:10:244::/56'],
    });
  });

  it('what kube-proxy writes reads as its values', () => {
    const { config, warnings } = resolve([], fixture('written-defaults.yaml'));
    expect(config).toEqual({ ...resolve([]).config, minSyncPeriodMs: 1000, loggingFormat: 'text' });
    expect(warnings).toEqual(['accepted without meaning here: iptables.localhostNodePorts']);
  });

  it('a file of many settings', () => {
    const { config, warnings } = resolve([], fixture('custom.yaml'));
    expect(config).toMatchObject({
      proxyMode: 'ipvs',
      hostnameOverride: 'node-1.example',
      clusterCIDRs: ['fd00:1::/64'],
      masqueradeAll: true,
      syncPeriodMs: 60_000,
      minSyncPeriodMs: 10_000,
      ipvsScheduler: 'mh',
      ipvsStrictArp: true,
      ipvsExcludeCIDRs: ['10.20.0.0/16', 'fd00:1::/64'],
      ipvsTcpMs: 5_400_000,
      oomScoreAdj: 0,
      conntrackMaxPerCore: 0,
      conntrackTcpEstablishedMs: 0,
      conntrackTcpCloseWaitMs: 10_000,
      verbosity: 4,
      nodePortAddresses: { by: 'cidrs', cidrs: ['10.20.0.0/16'] },
      adminSocket: '',
      bpfServicesMax: 1000,
      healthzBind: { address: '::', port: 10256 },
      podInterfaceNamePrefix: 'veth',
    });
    expect(warnings).toEqual([
      'accepted without meaning here: featureGates, iptables.masqueradeBit, portRange',
    ]);
  });

  it('may be JSON', () => {
    const json = JSON.stringify({
      apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
      kind: 'KubeProxyConfiguration',
      mode: 'nftables',
    });
    expect(resolve([], json).config.proxyMode).toBe('nft');
  });

  it.each([
    ['mode: iptables\niptables: {syncPeriod: 5s}\nnftables: {syncPeriod: 6s}', 5000],
    ['iptables: {syncPeriod: 5s}\nnftables: {syncPeriod: 6s}', 5000],
    ['mode: nftables\niptables: {syncPeriod: 5s}\nnftables: {syncPeriod: 6s}', 6000],
    ['mode: auto\niptables: {syncPeriod: 5s}\nnftables: {syncPeriod: 6s}', 6000],
    ['mode: auto\niptables: {syncPeriod: 5s}', 5000],
    ['mode: ipvs\niptables: {syncPeriod: 5s}', 30_000],
    ['mode: ipvs\ntriplane: {syncPeriod: 7s}\nipvs: {syncPeriod: 5s}', 7000],
  ])('the period comes from the section of the mode: %j', (body, periodMs) => {
    expect(resolve([], HEAD + body).config.syncPeriodMs).toBe(periodMs);
  });

  it('names unknown and duplicate fields and goes on', () => {
    const body = `${HEAD}mode: ipvs\nMode: x\nipvs:\n  schedular: lc\n  strictARP: true\n  strictARP: false\n"evil\\nfield": 1\nmode: nftables\n`;
    const { config, warnings } = resolve([], body);
    expect(config.proxyMode).toBe('nft');
    expect(warnings).toEqual([
      'proxy.yaml: duplicate field mode; duplicate field ipvs.strictARP; unknown field Mode (it is written mode); unknown field ipvs.schedular; unknown field "evil\\nfield"; read leniently',
    ]);
  });

  it.each([
    ['', /is empty|holds no/],
    ['- 1', /holds no/],
    ['kind: KubeProxyConfiguration', /apiVersion is missing/],
    ['apiVersion: kubeproxy.config.k8s.io/v1alpha1', /kind is missing/],
    ['apiVersion: kubeproxy.config.k8s.io/v1\nkind: KubeProxyConfiguration', /apiVersion: .* must be/],
    ['apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeletConfiguration', /kind: .* must be/],
    [`${HEAD}mode: [`, /proxy.yaml: /],
    [`${HEAD}ipvs: 3`, /ipvs: is not a map/],
    [`${HEAD}mode: 3`, /mode: 3 is not a text/],
    [`${HEAD}oomScoreAdj: "3"`, /oomScoreAdj: "3" is not a whole number/],
    [`${HEAD}configSyncPeriod: 30`, /configSyncPeriod: 30 is not a text/],
    [`${HEAD}nodePortAddresses: primary`, /nodePortAddresses: "primary" is not a list/],
    [`${HEAD}enableProfiling: "true"`, /enableProfiling: "true" is not true or false/],
    [`${HEAD}conntrack: {min: -1}\nipvs: {scheduler: x}`, /conntrack.min: .*; ipvs.scheduler: /],
    [`${HEAD}detectLocalMode: InterfaceNamePrefix`, /must be given/],
    [`${HEAD}iptables: {minSyncPeriod: 1m}`, /longer than the sync period/],
    [`${HEAD}featureGates: {A: 1}`, /featureGates: A: 1 is not true or false/],
    [
      `${HEAD}a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]`,
      /alias/i,
    ],
  ])('%j is refused', (body, says) => {
    const error = failure(() => resolve([], body));
    expect(error.code).toBe('TP_BAD_CONFIG');
    expect(error.message).toMatch(says);
    expect(error.message).not.toContain('\n');
  });

  it.each(['mode: &a [*a, *a]', 'mode: &a {b: *a}', 'triplane: &a {serviceCIDRs: [*a]}'])(
    'refuses what contains itself: %s',
    (line) => {
      expect(failure(() => parseConfigFile(`${HEAD}${line}\n`, 'f')).message).toBe(
        'f: has a YAML alias within its own anchor',
      );
    },
  );

  it('never throws anything but TriplaneError, whatever is cut or changed', () => {
    const text = fixture('custom.yaml');
    for (let at = 0; at < text.length; at += 7) {
      for (const mangled of [
        text.slice(0, at),
        `${text.slice(0, at)}\u0000${text.slice(at + 1)}`,
        `${text.slice(0, at)}: ${text.slice(at)}`,
      ]) {
        try {
          resolve([], mangled);
        } catch (error) {
          expect(error).toBeInstanceOf(TriplaneError);
        }
      }
    }
  });
});

describe('precedence', () => {
  it('flag, then file, then default; what kube-proxy would have ignored is named', () => {
    const { config, warnings } = resolve(
      [
        '--proxy-mode=nft',
        '--cluster-cidr=10.1.0.0/16',
        '--v=3',
        '--admin-socket=/x',
        '--oom-score-adj=-999',
      ],
      `${HEAD}mode: nftables\nclusterCIDR: 10.0.0.0/16\nlogging: {verbosity: 1}\nbindAddress: 10.0.0.1`,
    );
    expect(config).toMatchObject({
      proxyMode: 'nft',
      clusterCIDRs: ['10.1.0.0/16'],
      verbosity: 3,
      adminSocket: '/x',
      bindAddress: '10.0.0.1',
    });
    expect(warnings).toEqual([
      'given beside --config and winning over it, unlike in kube-proxy: --cluster-cidr',
    ]);
  });

  it('a flag wins over the section of the mode', () => {
    expect(
      resolve(['--masquerade-all=false'], `${HEAD}iptables: {masqueradeAll: true}`).config.masqueradeAll,
    ).toBe(false);
    expect(resolve([], `${HEAD}iptables: {masqueradeAll: true}`).config.masqueradeAll).toBe(true);
    expect(resolve([], `${HEAD}mode: nftables\niptables: {masqueradeAll: true}`).config.masqueradeAll).toBe(
      false,
    );
  });

  it.each(['iptables', 'ipvs'])('%s tells that NodePorts answer elsewhere', (mode) => {
    expect(resolve([], `${HEAD}mode: ${mode}`).warnings.join()).toMatch(/--nodeport-addresses=all/);
    expect(resolve(['--nodeport-addresses=primary'], `${HEAD}mode: ${mode}`).warnings.join()).not.toMatch(
      /=all/,
    );
  });
});

describe('writing', () => {
  it.each(['kubeadm.yaml', 'written-defaults.yaml', 'custom.yaml'])(
    '%s reads the same after it was written',
    (name) => {
      const first = resolve([], fixture(name));
      const again = resolve([], configurationYaml(first.settings));
      expect(again.config).toEqual(first.config);
      expect(again.warnings.filter((line) => !line.startsWith('accepted'))).toEqual([]);
    },
  );

  it.each(GOOD)('%s survives being written', (arg, key) => {
    if (['master', 'configFile', 'initOnly'].includes(key)) return;
    const first = resolve([arg]);
    expect(resolve([], configurationYaml(first.settings)).config[key]).toEqual(first.config[key]);
  });

  it('kube-proxy finds its own fields in it', () => {
    const ours = kubeProxyConfiguration(resolve(['--proxy-mode=nft']).settings);
    expect(ours.mode).toBe('nftables');
    expect(ours.conntrack).toMatchObject({ tcpEstablishedTimeout: '24h0m0s', maxPerCore: 32768 });
  });
});

describe('changes and documentation', () => {
  it('tells what can be taken over live', () => {
    const before = resolve(['--proxy-mode=nft']).settings;
    const after = resolve([
      '--proxy-mode=ipvs',
      '--healthz-bind-address=1.2.3.4',
      '--v=2',
      '--feature-gates=A=true',
    ]).settings;
    expect(compareConfigs(before, after)).toEqual({
      live: ['mode', 'logging.verbosity'],
      restart: ['healthzBindAddress'],
    });
    expect(compareConfigs(before, before)).toEqual({ live: [], restart: [] });
  });

  it('takes over only that', () => {
    const before = resolve(['--proxy-mode=nft']);
    const { config } = takeOver(before, resolve(['--proxy-mode=ipvs', '--healthz-bind-address=1.2.3.4']));
    expect(config.proxyMode).toBe('ipvs');
    expect(config.healthzBind).toEqual(before.config.healthzBind);
  });

  it.each([
    // file at the start, changed file, flags, mode after it
    ['mode: nftables', '', [], 'nft'],
    ['mode: nftables', 'mode: ""', [], 'nft'],
    ['mode: nftables', 'mode: nft', [], 'nft'],
    ['mode: nftables', 'mode: ebpf', [], 'ebpf'],
    ['mode: nftables', 'mode: auto', [], 'auto'],
    ['mode: nftables', 'mode: iptables', [], 'auto'],
    ['', 'mode: ipvs', [], 'ipvs'],
    ['', '', [], 'auto'],
    ['mode: nftables', 'mode: ebpf', ['--proxy-mode=ipvs'], 'ipvs'],
  ] as const)(
    'a file that changes from "%s" to "%s", with the flags %j: %s',
    (first, changed, flags, mode) => {
      const before = resolve(flags, `${HEAD}${first}\n`);
      const after = resolve(flags, `${HEAD}${changed}\nclusterCIDR: 10.0.0.0/8\n`);
      const taken = takeOver(before, after);
      expect(taken.config).toMatchObject({ proxyMode: mode, clusterCIDRs: ['10.0.0.0/8'] });
      const moves = before.config.proxyMode !== mode;
      expect(compareConfigs(before.settings, after.settings)).toEqual({
        live: [...(moves ? ['mode'] : []), 'clusterCIDR'],
        restart: [],
      });
      // The mode that was named before is remembered, over a file that names none.
      expect(takeOver(taken, before).config.proxyMode).toBe(first === '' ? mode : before.config.proxyMode);
    },
  );

  it('the page names every flag and field', () => {
    const page = configurationReference();
    for (const spec of OPTIONS as readonly OptionSpec[]) {
      if (spec.flag !== '') expect(page).toContain(`--${spec.flag}\``);
      if (spec.field !== '') expect(page).toContain(`\`${spec.field}\``);
    }
  });

  it('keys, flags and fields are unique; aliases and defaults hold', () => {
    for (const column of ['key', 'flag', 'field'] as const) {
      const all = OPTIONS.map((spec) => spec[column]).filter((text) => text !== '');
      expect(new Set(all).size).toBe(all.length);
    }
    const keys = new Set<string>(OPTIONS.map((spec) => spec.key));
    for (const spec of OPTIONS as readonly OptionSpec[]) {
      if (spec.status === 'alias') expect(keys.has(spec.fold ?? '')).toBe(true);
    }
    expect(() => resolve([])).not.toThrow();
  });
});
