/** What is watched: the same resources with the same selectors as kube-proxy (cmd/kube-proxy/app/server.go). */
import type { RecordKind } from '../../model/records.ts';

export interface Resource {
  readonly kind: RecordKind;
  /** The plural, as in RBAC rules. */
  readonly name: string;
  readonly path: string;
  readonly labelSelector: string;
  readonly fieldSelector: string;
  /** 'required' ones must be listed before the state counts as complete; others may not even exist. */
  readonly need: 'required' | 'optional';
}

/** nodeName: RFC 1123 subdomain; '' watches no Node. */
export function resourcesFor(nodeName: string): readonly Resource[] {
  const resources: Resource[] = [
    {
      kind: 'Service',
      name: 'services',
      path: '/api/v1/services',
      labelSelector: '!service.kubernetes.io/service-proxy-name',
      fieldSelector: 'spec.clusterIP!=None',
      need: 'required',
    },
    {
      kind: 'EndpointSlice',
      name: 'endpointslices.discovery.k8s.io',
      path: '/apis/discovery.k8s.io/v1/endpointslices',
      labelSelector: '!service.kubernetes.io/headless',
      fieldSelector: '',
      need: 'required',
    },
    {
      kind: 'ServiceCIDR',
      name: 'servicecidrs.networking.k8s.io',
      path: '/apis/networking.k8s.io/v1/servicecidrs',
      labelSelector: '',
      fieldSelector: '',
      need: 'optional',
    },
  ];
  if (nodeName !== '') {
    resources.push({
      kind: 'Node',
      name: 'nodes',
      path: '/api/v1/nodes',
      labelSelector: '',
      fieldSelector: `metadata.name=${nodeName}`,
      need: 'required',
    });
  }
  return resources;
}
