/** The services that `lab up` with agents and the demo start from. */
import type { Lab } from './lab.ts';
import {
  type ApiObject,
  type EndpointSpec,
  type ServiceSpec,
  serviceObject,
  sliceObjects,
} from './manifests.ts';
import { serviceAddress } from './plan.ts';

export const WEB_PORT = 9000;
export const WEB_NODE_PORT = 30900;
export const UDP_PORT = 9053;
const TARGET_PORT = 80;

function webPods(lab: Lab): readonly EndpointSpec[] {
  return lab.plan.pods.filter((pod) => pod.labels.app === 'web');
}

/** Service web: port 9000 to targetPort 80, ClusterIP 10.200.1.10 and fd00:200::a. `changes` go on top. */
export function webService(lab: Lab, changes: Partial<ServiceSpec> = {}): ApiObject {
  return serviceObject({
    name: 'web',
    clusterIPs: lab.plan.families.map((family) => serviceAddress(family, 10)),
    ports: [{ port: WEB_PORT, targetPort: TARGET_PORT }],
    selector: { app: 'web' },
    ...changes,
  });
}

/** Its slices; every pod with the label app=web unless told otherwise. */
export function webSlices(lab: Lab, endpoints: readonly EndpointSpec[] = webPods(lab)): ApiObject[] {
  return sliceObjects({
    service: 'web',
    families: lab.plan.families,
    ports: [{ port: TARGET_PORT }],
    endpoints,
  });
}

/** The same as a NodePort service. */
export function webNodePort(lab: Lab, externalTrafficPolicy: 'Cluster' | 'Local'): ApiObject {
  return webService(lab, {
    type: 'NodePort',
    ports: [{ port: WEB_PORT, targetPort: TARGET_PORT, nodePort: WEB_NODE_PORT }],
    externalTrafficPolicy,
  });
}

/** Service dns: UDP port 9053 to the pods' UDP port 80, ClusterIP 10.200.1.11 and fd00:200::b. */
export function udpObjects(lab: Lab): ApiObject[] {
  const service = serviceObject({
    name: 'dns',
    clusterIPs: lab.plan.families.map((family) => serviceAddress(family, 11)),
    ports: [{ port: UDP_PORT, targetPort: TARGET_PORT, protocol: 'UDP' }],
    selector: { app: 'web' },
  });
  const ports = [{ port: TARGET_PORT, protocol: 'UDP' as const }];
  return [
    service,
    ...sliceObjects({ service: 'dns', families: lab.plan.families, ports, endpoints: webPods(lab) }),
  ];
}

/** Writes all of it into the lab's manifests. */
export function writeExamples(lab: Lab): void {
  lab.manifests.write('web', [webNodePort(lab, 'Cluster')]);
  lab.manifests.write('web-endpoints', webSlices(lab));
  lab.manifests.write('dns', udpObjects(lab));
}
