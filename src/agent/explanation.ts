/** Puts a verdict of decide() into the words of `triplane explain`. */
import type { Address } from '../model/records.ts';
import type { Explanation } from './status.ts';

/** The part of decide()'s Verdict that people are told. */
export type TellableVerdict = { readonly because: readonly string[] } & (
  | {
      readonly action: 'forward';
      readonly port: { readonly name: string };
      readonly backends: readonly {
        readonly address: Address;
        readonly port: number;
        readonly local: boolean;
        readonly masquerade: boolean;
      }[];
    }
  | { readonly action: 'reject'; readonly how: 'tcp-reset' | 'port-unreachable' }
  | { readonly action: 'drop' }
  | { readonly action: 'pass' }
);

export function explanationOf(verdict: TellableVerdict): Explanation {
  const { action, because } = verdict;
  const backends =
    verdict.action === 'forward'
      ? verdict.backends.map(({ address, port, local, masquerade }) => ({ address, port, local, masquerade }))
      : [];
  return { action, outcome: outcomeOf(verdict), backends, because };
}

function outcomeOf(verdict: TellableVerdict): string {
  switch (verdict.action) {
    case 'forward': {
      const { backends, port } = verdict;
      const some = backends.filter(({ masquerade }) => masquerade).length;
      // Some but not all: the sender itself (hairpin), or all but those on this node's own network.
      const how =
        some === 0 ? '' : some === backends.length ? ', masqueraded' : ', masqueraded where it says so below';
      const where = backends.length === 1 ? 'the one backend' : `one of ${backends.length} backends`;
      return `goes to ${where} of ${port.name}${how}`;
    }
    case 'reject':
      return verdict.how === 'tcp-reset' ? 'refused with a TCP reset' : 'refused with ICMP port unreachable';
    case 'drop':
      return 'dropped without an answer';
    case 'pass':
      return 'passes untouched: it is no service traffic';
  }
}
