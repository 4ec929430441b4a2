/** Puts a verdict of decide() into the words of `triplane explain`. */
import { familyOf } from '../model/address.ts';
import { decide } from '../model/decide.ts';
import type { DesiredState } from '../model/desired.ts';
import { TriplaneError } from '../model/errors.ts';
import type { Address } from '../model/records.ts';
import type { ExplainRequest, Explanation } from './status.ts';

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

/** `own`: addresses of this node. Throws TP_BAD_FLAG. */
export function explainPacket(
  request: ExplainRequest,
  state: DesiredState,
  own: readonly Address[],
): Explanation {
  const { source, destination, port, protocol, interfaceName } = request;
  const family = familyOf(destination);
  if (familyOf(source) !== family) {
    throw new TriplaneError(
      'TP_BAD_FLAG',
      `source ${source} and destination ${destination} are not of one family`,
    );
  }
  const known = own.includes(source) ? 'node' : 'outside';
  const from = request.from === 'unknown' ? known : request.from;
  const packet = { family, source, destination, port, protocol, from } as const;
  const verdict = decide(state, interfaceName === '' ? packet : { ...packet, interface: interfaceName }, own);
  return explanationOf(verdict as TellableVerdict);
}

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
