import { IpvsDataplane } from '../../src/dataplane/ipvs/ipvs-dataplane.ts';
import { ipvs } from '../support/ipvs.ts';
import { testConformance } from './table.ts';

testConformance({
  mode: 'ipvs',
  gate: ipvs,
  open: (netns) => new IpvsDataplane({ netns }),
  // Service addresses are this node's own here, so nothing can go on to somebody else (docs/ipvs.md).
  otherwise: {
    'externalTrafficPolicy: Cluster: another port of the external IP passes': 'tcp-reset',
    'externalTrafficPolicy: Cluster: another port of the load-balancer IP passes': 'tcp-reset',
    'loadBalancerSourceRanges: another port is not guarded': 'tcp-reset',
  },
});
