/** Which dataplane an agent runs, and why. */
import type { Dataplane, Mode } from '../dataplane/dataplane.ts';
import { EbpfDataplane, type EbpfOptions } from '../dataplane/ebpf/ebpf-dataplane.ts';
import { sizesFor } from '../dataplane/ebpf/knobs.ts';
import { IpvsDataplane } from '../dataplane/ipvs/ipvs-dataplane.ts';
import { NftDataplane } from '../dataplane/nft/nft-dataplane.ts';
import { TriplaneError } from '../model/errors.ts';
import { readKernelFacts } from '../node/kernel.ts';

/** What the ebpf mode takes from the configuration. */
export interface EbpfConfig {
  readonly bpfRoot: string;
  /** '': the root of cgroup v2. */
  readonly cgroupRoot: string;
  readonly socketLb: 'all' | 'host' | 'off';
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

export interface DataplaneOptions {
  readonly config: EbpfConfig & IpvsConfig;
  /** Called when somebody else changed what the dataplane holds in the kernel. */
  readonly onForeignChange: () => void;
}

export interface Choice {
  readonly mode: Mode;
  readonly reason: string;
  readonly dataplane: Dataplane;
}

const OPENERS: Partial<Record<Mode, (options: DataplaneOptions) => Dataplane>> = {
  nft: (options) => new NftDataplane(options),
  ipvs: ({ config, onForeignChange }) =>
    new IpvsDataplane({
      onForeignChange,
      scheduler: config.ipvsScheduler,
      arp: config.ipvsStrictArp ? 'strict' : 'as-it-is',
      tcpMs: config.ipvsTcpMs,
      tcpFinMs: config.ipvsTcpFinMs,
      udpMs: config.ipvsUdpMs,
    }),
  ebpf: ({ config, onForeignChange }) => new EbpfDataplane({ ...ebpfOptions(config), onForeignChange }),
};

export function ebpfOptions(config: EbpfConfig): Omit<EbpfOptions, 'onForeignChange'> {
  return {
    root: config.bpfRoot,
    cgroup: config.cgroupRoot === '' ? (readKernelFacts().cgroup2 ?? '') : config.cgroupRoot,
    socketLb: config.socketLb,
    sizes: sizesFor(config.bpfServicesMax, config.bpfBackendsMax, config.bpfConnectionsMax),
  };
}

/**
 * The order in which `auto` tries. ebpf is to come first (docs/architecture.md); until the whole conformance
 * table has passed through it, it is taken only by name.
 */
const PREFERENCE: readonly Mode[] = ['nft', 'ipvs', 'ebpf'];

/** Opens the dataplane of a mode. Throws TP_NO_FEATURE or TP_NO_PRIVILEGE where it cannot run. */
export function openDataplane(mode: Mode, options: DataplaneOptions): Dataplane {
  const open = OPENERS[mode];
  if (open) return open(options);
  const others = Object.keys(OPENERS).join(', ');
  throw new TriplaneError(
    'TP_NO_FEATURE',
    `mode ${mode} is not part of this version; modes that can run: ${others}`,
  );
}

/**
 * Opens the dataplane of a mode. A mode that is asked for by name and cannot run is an error that names the
 * modes that could: there is no silent fall-back.
 */
export function chooseDataplane(requested: Mode | 'auto', options: DataplaneOptions): Choice {
  if (requested !== 'auto') {
    const dataplane = openDataplane(requested, options);
    return { mode: requested, reason: 'asked for by name', dataplane };
  }
  const passed: string[] = [];
  let last: unknown;
  for (const mode of PREFERENCE) {
    const open = OPENERS[mode];
    if (!open) {
      passed.push(`${mode} is not part of this version`);
      continue;
    }
    try {
      const reason = ['the best mode that can run', ...passed].join('; ');
      return { mode, reason, dataplane: open(options) };
    } catch (error) {
      last = error;
      passed.push(`${mode} cannot run: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  if (last instanceof TriplaneError) throw last;
  throw new TriplaneError('TP_NO_FEATURE', `no mode can run here: ${passed.join('; ')}`);
}
