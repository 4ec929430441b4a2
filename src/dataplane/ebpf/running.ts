/**
 * What a dataplane holds between start() and close(), opened in two steps: the maps with all that fills them, and, when
 * the verifier has done its work, the programs with all that attaches them.
 */
import type { Family } from '../../model/records.ts';
import { adoptTables } from './adopt.ts';
import { Clock, ticksOf } from './clock.ts';
import { Collector } from './collector.ts';
import { Compiler } from './compiler.ts';
import { DeviceRows } from './device-rows.ts';
import { Devices } from './devices.ts';
import { Drain } from './drain.ts';
import { firstRules } from './first-rules.ts';
import { ForwardGate } from './forward-gate.ts';
import { type Loaded, loadKernel } from './kernel.ts';
import { Links } from './links.ts';
import { SideMap } from './maps.ts';
import { NatReservations } from './nat-reservations.ts';
import { NodeState } from './node-state.ts';
import { OptOuts } from './opt-outs.ts';
import type { withDefaults } from './options.ts';
import type { Part } from './parts.ts';
import { SocketSweeper } from './sockets.ts';
import { EbpfTraffic } from './traffic.ts';

const DRAIN_STEP_MS = 50;
const now = () => performance.now();

export type Options = ReturnType<typeof withDefaults>;

/** What changes by itself. */
export interface Hooks {
  onForward(): void;
  onRoutes(): void;
  onDevices(): void;
  onDrain(): void;
}

export interface Opened {
  readonly loaded: Loaded;
  readonly compiler: Compiler;
  readonly node: NodeState;
  readonly clock: Clock;
  readonly collector: Collector;
  readonly devices: Devices;
  readonly gate: ForwardGate;
  /** null: nothing is counted. */
  readonly counter: EbpfTraffic | null;
}

export interface Running extends Opened {
  /** Parts of the programs that this kernel does not take, with the reason. */
  readonly omitted: ReadonlyMap<Part, string>;
  readonly rows: DeviceRows;
  readonly links: Links;
  readonly sweeper: SocketSweeper;
  readonly optOuts: OptOuts;
  drains: Drain[];
  readonly natReservations: NatReservations;
  drainTimer: NodeJS.Timeout | null;
}

/** Throws TP_NO_FEATURE, TP_NO_PRIVILEGE or TP_LOCKED. */
export async function openTables(options: Options, hooks: Hooks): Promise<Opened> {
  const { root, sizes, natPorts, traffic } = options;
  const loaded = await loadKernel({ root, sizes, natPorts, traffic });
  try {
    return await openAround(loaded, options, hooks);
  } catch (error) {
    await loaded.omitted.catch(() => {});
    loaded.object.close();
    removeNew(loaded);
    throw error;
  }
}

/** Maps that were made for what has failed. */
function removeNew({ origin, generation }: Loaded): void {
  if (origin === 'new') generation.remove();
}

async function openAround(loaded: Loaded, options: Options, hooks: Hooks): Promise<Opened> {
  const { xdp, xdpForward, cgroup, socketLb, traffic } = options;
  const { hz } = loaded.meta;
  const clock = new Clock(hz);
  const ticks = (seconds: number) => ticksOf(seconds, hz);
  const gate = new ForwardGate(xdp === 'off' ? 'never' : xdpForward, '', hooks.onForward);
  await gate.begin();
  const { forward } = gate.state;
  const nobody = { speaks: new Set<Family>(), podsKnown: new Set<Family>() };
  const compiler = new Compiler(loaded.maps, { ...nobody, xdpForward: forward, ticks }, now);
  const { counting } = loaded;
  const counter = counting && new EbpfTraffic(counting, traffic.by, () => compiler.services.values());
  compiler.births = counter;
  const collector = new Collector(compiler, clock, now);
  if (loaded.origin === 'adopted') {
    collector.pass();
    adoptTables(compiler, {
      frontend: (index) => collector.refersToFrontend(index),
      backend: (index) => collector.refersToBackend(index),
    });
  }
  const devices = new Devices('', { onRoutes: hooks.onRoutes, onDevices: hooks.onDevices });
  await devices.begin();
  const sockets = cgroup === '' ? 'off' : socketLb;
  const node = new NodeState(compiler, firstRules(loaded, sockets, devices.sourceRoutes), '');
  return { loaded, compiler, node, clock, collector, devices, gate, counter };
}

/** Waits for the programs. On failure everything is closed, and maps that were made for them go. */
export async function withPrograms(opened: Opened, options: Options, hooks: Hooks): Promise<Running> {
  const omitted = await opened.loaded.omitted.catch(async (error: unknown) => {
    await closeOpened(opened);
    removeNew(opened.loaded);
    throw error;
  });
  const { loaded, node, compiler } = opened;
  if (omitted.has('sockets')) node.setRules({ socketLb: 'off' });
  const cgroup = omitted.has('sockets') || options.socketLb === 'off' ? '' : options.cgroup;
  const drains = loaded.older.map((number) => new Drain(options.root, number, now));
  const links = new Links(loaded.generation, loaded.object.programs(), {
    xdp: options.xdp,
    cgroup,
    netns: '',
    older: drains.map(({ generation }) => generation),
  });
  const optOuts = new OptOuts({
    map: new SideMap(loaded.maps.handles.tp_optouts!),
    cgroup,
    onUse: (use) => node.setRules({ optOuts: use }),
  });
  const rows = new DeviceRows(loaded.maps.devices);
  const sweeper = new SocketSweeper(loaded.maps.handles.tp_sock_peers!.fd, (record) =>
    compiler.backends.gone.has(record),
  );
  const drainTimer = drains.length > 0 ? setInterval(hooks.onDrain, DRAIN_STEP_MS).unref() : null;
  const natReservations = new NatReservations(loaded.maps);
  return { ...opened, omitted, rows, links, sweeper, optOuts, drains, natReservations, drainTimer };
}

/** Of tables that carry nothing; new ones go. */
export async function discard(opened: Opened): Promise<void> {
  await opened.loaded.omitted.catch(() => {});
  await closeOpened(opened);
  removeNew(opened.loaded);
}

async function closeOpened({ loaded, devices, gate, clock }: Opened): Promise<void> {
  devices.close();
  await gate.close();
  clock.close();
  loaded.object.close();
}

export async function closeRunning(running: Running): Promise<void> {
  running.collector.stop();
  if (running.drainTimer) clearInterval(running.drainTimer);
  for (const drain of running.drains) drain.close();
  await running.sweeper.close();
  await running.optOuts.close();
  running.links.close();
  await closeOpened(running);
}
