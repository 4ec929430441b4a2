/** Records that belong to no service: ranges of ClusterIPs, and pods of this node that ask for something. */
import { mergeCidrs } from './address.ts';
import type { ModelConfig } from './change.ts';
import type { DesiredNode, OptOut } from './desired.ts';
import { makeDetector } from './detector.ts';
import { type Cidr, keyOf, type ObjectKey, type PodRecord, type ServiceCidrRecord } from './records.ts';

export class Scope {
  readonly #cidrs = new Map<string, readonly Cidr[]>();
  readonly #pods = new Map<ObjectKey, PodRecord>();

  set(record: ServiceCidrRecord | PodRecord): void {
    if (record.kind === 'Pod') this.#pods.set(keyOf(record), record);
    else this.#cidrs.set(record.name, record.cidrs);
  }

  delete(kind: 'ServiceCIDR' | 'Pod', key: ObjectKey): void {
    if (kind === 'Pod') this.#pods.delete(key);
    else this.#cidrs.delete(key);
  }

  /** @param podCIDRs of this node's record */
  desired(config: ModelConfig, podCIDRs: readonly Cidr[]): DesiredNode {
    const node = {
      detector: makeDetector(config, podCIDRs),
      serviceCIDRs: mergeCidrs([config.serviceCIDRs, ...this.#cidrs.values()].flat()),
    };
    const optOuts = this.#optOuts(config.nodeName);
    return optOuts.length > 0 ? { ...node, optOuts } : node;
  }

  /** In the order of their names, so that what comes out does not depend on the order in which they came. */
  #optOuts(nodeName: string): OptOut[] {
    return [...this.#pods]
      .filter(([, record]) => record.nodeName === nodeName && record.socketLb === 'off')
      .map(([pod, { cgroupUid }]) => ({ pod, cgroupUid }))
      .sort((a, b) => (a.pod < b.pod ? -1 : 1));
  }
}
