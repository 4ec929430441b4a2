/** The rules that a dataplane begins with: what it is told, and what the maps that it takes over say. */
import { ABI } from './abi.ts';
import type { Loaded } from './kernel.ts';
import type { NodeRules, SocketLb } from './node-settings.ts';

export function firstRules(
  { origin, maps, older }: Pick<Loaded, 'origin' | 'maps' | 'older'>,
  socketLb: SocketLb,
  sourceRoutes: NodeRules['sourceRoutes'],
): NodeRules {
  const flags = origin === 'adopted' ? maps.settings.words[0]! : null;
  // What another mode translated goes on there; maps that are taken over say whether there was any. Where they drain,
  // another one leads.
  const may = (flag: number) => flags === null || (flags & flag) !== 0;
  return {
    socketLb,
    sourceRoutes,
    // Whoever opted out stays out until the pods are known.
    optOuts: flags !== null && (flags & ABI.S_SOCK_OPTOUT) !== 0 ? 'some' : 'none',
    kernelConnections: may(ABI.S_ASK_KERNEL | ABI.S_DRAIN) ? 'some' : 'none',
    drain: may(ABI.S_DRAIN) ? 'on' : 'off',
    older: older.length > 0 ? 'some' : 'none',
  };
}
