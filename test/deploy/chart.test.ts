/** The chart and the plain manifests: what they give, for which values, and that the program takes it. */
import { Command } from 'commander';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { renderChart } from '../../scripts/lib/chart.mjs';
import { resolveConfig } from '../../src/config/config.ts';
import { parseConfigFile } from '../../src/config/file.ts';
import { addFlags } from '../../src/config/flags.ts';
import { CHART, find, type Manifest, manifests, objectsIn, readDeploy } from './support.ts';

const MODES = ['auto', 'nft', 'ipvs', 'ebpf'] as const;
const agentOf = (objects: readonly Manifest[]) => find(objects, 'DaemonSet').spec.template.spec.containers[0];

/** What the agent makes of the arguments and the file that a pod gets. */
function resolvedBy(objects: readonly Manifest[], file?: string) {
  const { args } = agentOf(objects) as { args: string[] };
  expect(args[0]).toBe('run');
  const command = new Command('run').exitOverride();
  const flags = addFlags(command);
  command.parse(
    args.slice(1).map((arg) => arg.replace('$(NODE_NAME)', 'n1')),
    { from: 'user' },
  );
  const text = file ?? (find(objects, 'ConfigMap').data['config.conf'] as string);
  return resolveConfig(flags, parseConfigFile(text, 'config.conf'));
}

describe('the chart', () => {
  test.each(MODES)('mode %s: the program takes arguments and file without a warning', (mode) => {
    const { config, warnings } = resolvedBy(manifests({ mode }));
    expect(warnings).toEqual([]);
    expect(config).toMatchObject({
      ...{ proxyMode: mode, kubeconfig: '/var/lib/kube-proxy/kubeconfig.conf', hostnameOverride: 'n1' },
      ...{ healthzBind: { port: 10256 }, metricsBind: { port: 10249 } },
    });
  });

  test.each([
    ['nft', 'auto', ['NET_ADMIN']],
    ['ipvs', 'auto', ['NET_ADMIN']],
    ['ebpf', 'auto', ['NET_ADMIN', 'BPF', 'PERFMON']],
    ['auto', 'auto', ['NET_ADMIN', 'BPF', 'PERFMON']],
    ['auto', 'off', ['NET_ADMIN']],
    ['nft', 'on', ['NET_ADMIN', 'BPF', 'PERFMON']],
  ])('mode %s, bpf %s: exactly the capabilities %j', (mode, bpf, add) => {
    const objects = manifests({ mode, bpf });
    const { securityContext, volumeMounts } = agentOf(objects);
    expect(securityContext).toEqual({
      ...{ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsUser: 0 },
      capabilities: { drop: ['ALL'], add },
    });
    const mounts = volumeMounts.map(({ mountPath }: { mountPath: string }) => mountPath);
    expect(mounts.includes('/sys/fs/bpf')).toBe(add.length > 1);
    const volumes = find(objects, 'DaemonSet').spec.template.spec.volumes as { name: string }[];
    expect(volumes.map(({ name }) => name)).toEqual(volumeMounts.map(({ name }: { name: string }) => name));
  });

  test('kubeadm’s own ConfigMap can be used', () => {
    const objects = manifests({ existingConfigMap: 'kube-proxy', apiServer: '', mode: 'nft' });
    expect(objects.some(({ kind }) => kind === 'ConfigMap')).toBe(false);
    expect(find(objects, 'DaemonSet').spec.template.spec.volumes[0]).toEqual({
      ...{ name: 'config', configMap: { name: 'kube-proxy' } },
    });
    const head = 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n';
    expect(resolvedBy(objects, `${head}mode: iptables`).config.proxyMode).toBe('nft');
  });

  test('without an API server’s address it says what to set', () => {
    expect(() => manifests({ apiServer: '' })).toThrow(/configmap.yaml: apiServer must be set/);
  });

  test('fields of kube-proxy and of Triplane reach the file, whatever they hold', () => {
    const config = {
      ...{ clusterCIDR: '10.0.0.0/8,fd00::/64', nodePortAddresses: ['primary'] },
      ...{ conntrack: { maxPerCore: 0 }, triplane: { serviceCIDRs: ['10.96.0.0/12'] } },
    };
    const resolved = resolvedBy(manifests({ config, extraArgs: ['--v=4'] }));
    expect(resolved.config).toMatchObject({
      conntrackMaxPerCore: 0,
      serviceCIDRs: ['10.96.0.0/12'],
      verbosity: 4,
    });
  });

  test('values that change the pod stand where they belong', () => {
    const objects = manifests({
      ...{ podLabels: { team: 'net' }, podAnnotations: { a: 'b' }, initPrivileged: false },
      ...{ imagePullSecrets: [{ name: 's' }], affinity: { nodeAffinity: {} }, image: { tag: 'x' } },
    });
    const { metadata, spec } = find(objects, 'DaemonSet').spec.template;
    expect(metadata).toEqual({
      labels: { 'app.kubernetes.io/name': 'triplane', team: 'net' },
      annotations: { a: 'b' },
    });
    expect(spec).toMatchObject({ imagePullSecrets: [{ name: 's' }], affinity: { nodeAffinity: {} } });
    expect(spec).not.toHaveProperty('initContainers');
    expect(spec.containers[0].image).toBe('triplane:x');
  });

  test('a kubeconfig that reads its token and CA anew', () => {
    const kubeconfig = parse(find(manifests(), 'ConfigMap').data['kubeconfig.conf']);
    expect(kubeconfig.clusters[0].cluster.server).toBe('https://10.0.0.10:6443');
    expect(kubeconfig.users[0].user).toEqual({
      tokenFile: '/var/run/secrets/kubernetes.io/serviceaccount/token',
    });
  });

  test('every value is in the schema, and the other way round', () => {
    const values = parse(readDeploy('helm/triplane/values.yaml'));
    const schema = JSON.parse(readDeploy('helm/triplane/values.schema.json'));
    const names = Object.keys(schema.properties).filter((name) => name !== 'global');
    expect(Object.keys(values).sort()).toEqual(names.sort());
    for (const group of ['image', 'metrics', 'healthz'])
      expect(Object.keys(values[group]).sort()).toEqual(
        Object.keys(schema.properties[group].properties).sort(),
      );
  });

  test('every object is in the namespace of the release, or in none', () => {
    for (const [, text] of renderChart(
      CHART,
      { apiServer: 'https://a', metrics: { serviceMonitor: true } },
      'net',
    )) {
      if (!text.includes('kind:')) continue;
      for (const { kind, metadata } of objectsIn(text))
        expect(metadata.namespace).toBe(kind.startsWith('Cluster') ? undefined : 'net');
    }
  });
});

describe('the plain manifests', () => {
  test('hold what the chart gives', () => {
    const plain = objectsIn(readDeploy('kubernetes/triplane.yaml'));
    expect(plain).toEqual(manifests({ apiServer: 'https://API-SERVER:6443' }));
    expect(objectsIn(readDeploy('kubernetes/monitoring.yaml')).map(({ kind }) => kind)).toEqual([
      ...['PrometheusRule', 'Service', 'ServiceMonitor'],
    ]);
  });
});
