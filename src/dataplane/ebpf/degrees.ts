/** What the ebpf mode got of what it can do without. Pure. */
import type { Degree } from '../dataplane.ts';
import type { ForwardState } from './forward-gate.ts';
import type { Loaded } from './kernel.ts';
import type { Links, XdpMode } from './links.ts';
import type { SocketLb } from './node-settings.ts';
import type { Running } from './running.ts';

export interface Attached extends Pick<Running, 'omitted'>, Pick<Loaded, 'ctLookup'> {
  readonly held: ReturnType<Links['held']>;
  /** What could not be attached, by the name of its link. */
  readonly problems: ReadonlyMap<string, string>;
  /** Why devices are left to tc that XDP could stand on, by their index. */
  readonly spared: ReadonlyMap<number, string>;
  /** Names of devices by their index. */
  readonly uplinks: ReadonlyMap<number, string>;
  readonly socketLb: SocketLb;
  /** '': no cgroup. */
  readonly cgroup: string;
  readonly xdp: XdpMode;
  readonly forwarding: ForwardState;
}

export function ebpfDegrees(attached: Attached): Degree[] {
  return [tc(attached), ...xdp(attached), ...forwarding(attached), sockets(attached), conntrack(attached)];
}

function tc({ held, problems }: Attached): Degree {
  const kinds = new Set(held.flatMap(({ how }) => (how === 'tcx' || how === 'clsact' ? [how] : [])));
  const got = kinds.size === 0 ? 'none' : [...kinds].sort().join('+');
  const clsact = kinds.has('clsact') ? ['tcx is not to be had: filters stand in a clsact qdisc'] : [];
  const refused = [...problems].filter(([name]) => /^(?:in|e)gress_/.test(name));
  const reason = [...clsact, ...refused.map(([name, message]) => `${name}: ${message}`)].join('; ');
  return { feature: 'tc', device: '', got, reason };
}

function xdp({ held, uplinks, omitted, problems, spared, xdp: wanted }: Attached): Degree[] {
  return [...uplinks].map(([index, device]) => {
    const own = held.find(({ hook, ifindex }) => hook === 'xdp' && ifindex === index);
    if (own) {
      const reason = own.how === 'generic' ? 'the driver takes no XDP programs' : '';
      return { feature: 'xdp', device, got: own.how, reason };
    }
    const failed = omitted.get('xdp') ?? problems.get(`xdp_${index}`);
    const why = wanted === 'off' ? 'not asked for' : (failed ?? spared.get(index));
    return { feature: 'xdp', device, got: 'none', reason: `${why ?? 'not attached'}; served at tc` };
  });
}

/** Past the stack, by XDP: 'yes' while nothing of the node's is passed by. */
function forwarding({ held, forwarding: { forward, reason } }: Attached): Degree[] {
  if (!held.some(({ hook }) => hook === 'xdp')) return [];
  const got = forward === 'allowed' ? 'yes' : 'none';
  return [{ feature: 'xdp_forward', device: '', got, reason }];
}

function sockets({ held, problems, omitted, cgroup, socketLb }: Attached): Degree {
  const degree = (got: string, reason: string): Degree => ({ feature: 'sockets', device: '', got, reason });
  const packets = 'served packet by packet';
  if (socketLb === 'off') return degree('none', `--socket-lb=off; ${packets}`);
  const omission = omitted.get('sockets') ?? (cgroup === '' ? 'cgroup v2 is not mounted' : undefined);
  if (omission !== undefined) return degree('none', `${omission}; ${packets}`);
  const attached = held.filter(({ hook }) => hook === 'cgroup').length;
  const refused = [...problems].filter(([name]) => /^tp_[a-z]+[46]$/.test(name));
  if (refused.length === 0) return degree(socketLb, '');
  const reason = refused.map(([name, message]) => `${name}: ${message}`).join('; ');
  return degree(attached === 0 ? 'none' : 'some', `${reason}; the rest is ${packets}`);
}

function conntrack({ ctLookup }: Attached): Degree {
  const got = ctLookup === 'offered' ? 'yes' : 'none';
  const reason =
    got === 'yes' ? '' : 'connections that the kernel translated before a switch are not told apart';
  return { feature: 'ct_lookup', device: '', got, reason };
}
