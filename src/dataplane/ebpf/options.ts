/** What is asked of the ebpf mode beside the desired state. */
import { NO_TRAFFIC, type TrafficSettings } from '../traffic.ts';
import type { DeviceChoice } from './device-roles.ts';
import type { XdpForward } from './forward-gate.ts';
import { DEFAULT_SIZES, type PortRange, type Sizes } from './knobs.ts';
import type { XdpMode } from './links.ts';
import type { SocketLb } from './node-settings.ts';

export interface EbpfOptions {
  /** Folder of pins, in a BPF file system or where one can be mounted. */
  readonly root: string;
  /** Folder of cgroup v2 to which socket programs are attached; '': none. */
  readonly cgroup: string;
  readonly socketLb?: SocketLb;
  readonly xdp?: XdpMode;
  /** XDP forwarding passes netfilter by. 'auto': while no rule of the node would have spoken. */
  readonly xdpForward?: XdpForward;
  readonly sizes?: Sizes;
  readonly natPorts?: readonly PortRange[];
  readonly devices?: DeviceChoice;
  readonly traffic?: TrafficSettings;
  /** Called when somebody else changed something; the agent then calls verify(). */
  readonly onForeignChange?: () => void;
}

/** Above the kernel's local ports (32768 to 60999) and the NodePorts. */
export const DEFAULT_NAT_PORTS: readonly PortRange[] = [{ first: 61_000, last: 65_535 }];

export function withDefaults(options: EbpfOptions): Required<Omit<EbpfOptions, 'onForeignChange'>> {
  return {
    socketLb: 'all',
    xdp: 'native',
    xdpForward: 'auto',
    sizes: DEFAULT_SIZES,
    natPorts: DEFAULT_NAT_PORTS,
    devices: { except: [], uplinks: [] },
    traffic: NO_TRAFFIC,
    ...options,
  };
}
