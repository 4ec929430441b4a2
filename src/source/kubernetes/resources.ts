/** What is watched: the resources and selectors of kube-proxy (cmd/kube-proxy/app/server.go), and labelled pods. */
import type { RecordKind } from '../../model/records.ts';
import { SOCKET_LB_LABEL } from '../decode/pod.ts';

export interface Resource {
  readonly kind: RecordKind;
  /** The plural, as in RBAC rules. */
  readonly name: string;
  readonly path: string;
  readonly labelSelector: string;
  readonly fieldSelector: string;
  /**
   * 'required' ones must be listed before the state counts as complete. 'awaited' ones may not even exist, and are
   * waited for until they are listed or their failure has been reported: a restart does not take away what they brought.
   */
  readonly need: 'required' | 'awaited';
}

/** Whose pods are watched: those of this node that have our label, or nobody's. */
export type PodWatch = 'labelled' | 'none';

/**
 * What kube-proxy watches, and a node's few labelled pods.
 *
 * @param nodeName an RFC 1123 subdomain; '' watches no Node, and no pods
 */
export function resourcesFor(nodeName: string, pods: PodWatch): readonly Resource[] {
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
      need: 'awaited',
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
  if (nodeName !== '' && pods === 'labelled') {
    resources.push({
      kind: 'Pod',
      name: 'pods',
      path: '/api/v1/pods',
      // With any value: one that means nothing is to be named.
      labelSelector: SOCKET_LB_LABEL,
      fieldSelector: `spec.nodeName=${nodeName}`,
      need: 'awaited',
    });
  }
  return resources;
}
