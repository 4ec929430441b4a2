/** Objects as a person would write them, for tests to bend. */
type Json = Record<string, unknown>;

export function service(spec: Json = {}, metadata: Json = {}, status: Json = {}): Json {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { namespace: 'default', name: 'web', ...metadata },
    spec: { clusterIP: '10.200.1.1', ports: [{ port: 80 }], ...spec },
    status,
  };
}

export function slice(fields: Json = {}, metadata: Json = {}): Json {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      namespace: 'default',
      name: 'web-abc12',
      labels: { 'kubernetes.io/service-name': 'web' },
      ...metadata,
    },
    addressType: 'IPv4',
    ports: [{ name: '', port: 8080 }],
    endpoints: [{ addresses: ['10.10.1.2'] }],
    ...fields,
  };
}

export function node(spec: Json = {}, metadata: Json = {}, status: Json = {}): Json {
  return { apiVersion: 'v1', kind: 'Node', metadata: { name: 'worker-1', ...metadata }, spec, status };
}

export function serviceCidr(cidrs: unknown): Json {
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'ServiceCIDR',
    metadata: { name: 'kubernetes' },
    spec: { cidrs },
  };
}

/** One that has opted out. */
export function pod(spec: Json = {}, metadata: Json = {}, status: Json = {}): Json {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      namespace: 'default',
      name: 'mesh-0',
      uid: '6f1e1a3c-7d2b-4c56-9a10-3b1f0d2e4c55',
      labels: { 'triplane.dev/socket-lb': 'off' },
      ...metadata,
    },
    spec: { nodeName: 'worker-1', ...spec },
    status,
  };
}
