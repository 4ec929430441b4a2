/** The parts of a dataplane that runs. */
import type { Clock } from './clock.ts';
import type { Collector } from './collector.ts';
import type { Compiler } from './compiler.ts';
import type { DeviceRows } from './device-rows.ts';
import type { Devices } from './devices.ts';
import type { Drain } from './drain.ts';
import type { ForwardGate } from './forward-gate.ts';
import type { Loaded } from './kernel.ts';
import type { Links } from './links.ts';
import type { NodeState } from './node-state.ts';
import type { OptOuts } from './opt-outs.ts';
import type { SocketSweeper } from './sockets.ts';
import type { EbpfTraffic } from './traffic.ts';

/** What exists between start() and close(). */
export interface Running {
  readonly loaded: Loaded;
  readonly compiler: Compiler;
  readonly node: NodeState;
  readonly clock: Clock;
  readonly collector: Collector;
  readonly devices: Devices;
  readonly rows: DeviceRows;
  readonly gate: ForwardGate;
  readonly links: Links;
  readonly sweeper: SocketSweeper;
  readonly optOuts: OptOuts;
  readonly counter: EbpfTraffic | null;
  drains: Drain[];
  drainTimer: NodeJS.Timeout | null;
}
