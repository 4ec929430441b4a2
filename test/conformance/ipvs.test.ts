import { IpvsDataplane } from '../../src/dataplane/ipvs/ipvs-dataplane.ts';
import { ipvs } from '../support/ipvs.ts';
import { testConformance } from './table.ts';

testConformance({ mode: 'ipvs', gate: ipvs, open: (netns) => new IpvsDataplane({ netns }) });
