/**
 * What comes out of a decoder. A decoder never throws: whatever a file or an API server says ends as one of
 * these three.
 */
import type { ClusterRecord, ObjectKey, RecordKind } from '../../model/records.ts';

export type Decoded<R extends ClusterRecord = ClusterRecord> =
  /** A checked record. `faults` name list entries that were refused although the object stays. */
  | { readonly outcome: 'record'; readonly record: R; readonly faults: readonly string[] }
  /** Valid, but nothing that kube-proxy would look at: headless, ExternalName, another proxy's. */
  | { readonly outcome: 'ignored'; readonly kind: RecordKind; readonly key: ObjectKey }
  /** Malformed. `key` is null when not even the name can be trusted. */
  | {
      readonly outcome: 'refused';
      readonly kind: RecordKind;
      readonly key: ObjectKey | null;
      /** Fit for print: "Service default/web", or the escaped and cut name. */
      readonly object: string;
      readonly reason: string;
    };

const FAULTS_PRINTED_MAX = 3;

/** One line from the faults of one object, which may have thousands of bad entries. */
export function joinFaults(faults: readonly string[]): string {
  const printed = faults.slice(0, FAULTS_PRINTED_MAX).join('; ');
  const more = faults.length - FAULTS_PRINTED_MAX;
  return more > 0 ? `${printed}; and ${more} more` : printed;
}
