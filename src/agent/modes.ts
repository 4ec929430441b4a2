/** Which dataplane an agent runs, and why. */
import type { Dataplane, Mode } from '../dataplane/dataplane.ts';
import { EbpfDataplane } from '../dataplane/ebpf/ebpf-dataplane.ts';
import { sizesFor } from '../dataplane/ebpf/knobs.ts';
import type { EbpfOptions } from '../dataplane/ebpf/options.ts';
import { IpvsDataplane } from '../dataplane/ipvs/ipvs-dataplane.ts';
import type { IpvsSettings } from '../dataplane/ipvs/settings.ts';
import { NftDataplane } from '../dataplane/nft/nft-dataplane.ts';
import type { TrafficSettings } from '../dataplane/traffic.ts';
import { TriplaneError } from '../model/errors.ts';
import { readKernelFacts } from '../node/kernel.ts';
import { type Feature, requireFeatures } from '../node/switches.ts';
import type { AutoChoice } from '../probe/report.ts';

/** What the ebpf mode takes from the configuration. */
export interface EbpfConfig {
  readonly bpfRoot: string;
  /** '': the root of cgroup v2. */
  readonly cgroupRoot: string;
  readonly socketLb: 'all' | 'host' | 'off';
  readonly xdp: 'auto' | 'native' | 'generic' | 'off';
  readonly xdpForward: 'auto' | 'always' | 'never';
  readonly bpfServicesMax: number;
  readonly bpfBackendsMax: number;
  readonly bpfConnectionsMax: number;
}

/** What the ipvs mode takes from the configuration. */
export interface IpvsConfig {
  readonly ipvsScheduler: string;
  readonly ipvsStrictArp: boolean;
  /** 0: as the kernel has it. */
  readonly ipvsTcpMs: number;
  readonly ipvsTcpFinMs: number;
  readonly ipvsUdpMs: number;
}

/** What is counted of traffic, in every mode. */
export interface TrafficConfig {
  readonly trafficMetrics: 'off' | 'connections' | 'traffic';
  readonly trafficMetricsBy: 'service' | 'endpoint';
}

export function trafficSettings({ trafficMetrics, trafficMetricsBy }: TrafficConfig): TrafficSettings {
  return { level: trafficMetrics, by: trafficMetricsBy };
}

export interface DataplaneOptions {
  readonly config: EbpfConfig & IpvsConfig & TrafficConfig;
  /** Called when somebody else changed what the dataplane holds in the kernel. */
  readonly onForeignChange: () => void;
}

export interface Choice {
  readonly mode: Mode;
  readonly reason: string;
  readonly dataplane: Dataplane;
}

const OPENERS: Readonly<Record<Mode, (options: DataplaneOptions) => Dataplane>> = {
  nft: ({ config, onForeignChange }) =>
    new NftDataplane({ onForeignChange, traffic: trafficSettings(config) }),
  ipvs: ({ config, onForeignChange }) =>
    new IpvsDataplane({ onForeignChange, ...ipvsSettings(config), traffic: trafficSettings(config) }),
  ebpf: ({ config, onForeignChange }) =>
    new EbpfDataplane({ ...ebpfOptions(config), onForeignChange, traffic: trafficSettings(config) }),
};

function ipvsSettings(config: IpvsConfig): IpvsSettings {
  return {
    scheduler: config.ipvsScheduler,
    arp: config.ipvsStrictArp ? 'strict' : 'as-it-is',
    tcpMs: config.ipvsTcpMs,
    tcpFinMs: config.ipvsTcpFinMs,
    udpMs: config.ipvsUdpMs,
  };
}

/** Gives a dataplane that runs what it can take over. True: it counts once the dataplane is started again. */
export function configureDataplane(dataplane: Dataplane, config: IpvsConfig): boolean {
  return dataplane instanceof IpvsDataplane && dataplane.configure(ipvsSettings(config));
}

export function ebpfOptions(config: EbpfConfig): Omit<EbpfOptions, 'onForeignChange'> {
  return {
    root: config.bpfRoot,
    cgroup: config.cgroupRoot === '' ? (readKernelFacts().cgroup2 ?? '') : config.cgroupRoot,
    socketLb: config.socketLb,
    xdp: config.xdp === 'generic' ? 'native-or-generic' : config.xdp,
    xdpForward: config.xdpForward,
    sizes: sizesFor(config.bpfServicesMax, config.bpfBackendsMax, config.bpfConnectionsMax),
  };
}

/** What each mode cannot do without, of what can be switched off (src/node/switches.ts). */
const NEEDS: Readonly<Record<Mode, readonly Feature[]>> = {
  nft: ['nft', 'numgen'],
  ipvs: ['ipvs', 'nft'],
  ebpf: ['bpf'],
};

/**
 * Opens the dataplane of a mode; for `auto` of the one that the probe says is best. Throws TP_NO_FEATURE or
 * TP_NO_PRIVILEGE where it cannot run: there is no silent fall-back.
 *
 * @param auto what the probe chose; needed for `auto` alone
 */
export function chooseDataplane(
  requested: Mode | 'auto',
  options: DataplaneOptions,
  auto: AutoChoice | null = null,
): Choice {
  if (requested !== 'auto')
    return { mode: requested, reason: 'asked for by name', dataplane: openDataplane(requested, options) };
  const { mode, reason } = auto ?? { mode: '', reason: 'the kernel was not probed' };
  if (mode === '') throw new TriplaneError('TP_NO_FEATURE', `no mode can run here: ${reason}`);
  return { mode, reason, dataplane: openDataplane(mode, options) };
}

/** Throws TP_NO_FEATURE or TP_NO_PRIVILEGE where the mode cannot run. */
export function openDataplane(mode: Mode, options: DataplaneOptions): Dataplane {
  requireFeatures(NEEDS[mode]);
  return OPENERS[mode](options);
}
