/** Which dataplane an agent runs, and why. */
import type { Config } from '../config/config.ts';
import type { Dataplane, Mode } from '../dataplane/dataplane.ts';
import { IpvsDataplane } from '../dataplane/ipvs/ipvs-dataplane.ts';
import { NftDataplane } from '../dataplane/nft/nft-dataplane.ts';
import { TriplaneError } from '../model/errors.ts';

export interface DataplaneOptions {
  readonly config: Config;
  /** Called when somebody else changed what the dataplane holds in the kernel. */
  readonly onForeignChange: () => void;
}

export interface Choice {
  readonly mode: Mode;
  readonly reason: string;
  readonly dataplane: Dataplane;
}

const OPENERS: Partial<Record<Mode, (options: DataplaneOptions) => Dataplane>> = {
  nft: ({ onForeignChange }) => new NftDataplane({ onForeignChange }),
  ipvs: ({ onForeignChange, config }) =>
    new IpvsDataplane({
      onForeignChange,
      scheduler: config.ipvsScheduler,
      arp: config.ipvsStrictArp ? 'strict' : 'as-it-is',
      tcpMs: config.ipvsTcpMs,
      tcpFinMs: config.ipvsTcpFinMs,
      udpMs: config.ipvsUdpMs,
    }),
};

/** The order in which `auto` tries. */
const PREFERENCE: readonly Mode[] = ['ebpf', 'nft', 'ipvs'];

/**
 * Opens the dataplane of a mode. A mode that is asked for by name and cannot run is an error that names the
 * modes that could: there is no silent fall-back.
 */
export function chooseDataplane(requested: Mode | 'auto', options: DataplaneOptions): Choice {
  if (requested !== 'auto') {
    const open = OPENERS[requested];
    if (!open) {
      const others = Object.keys(OPENERS).join(', ');
      throw new TriplaneError(
        'TP_NO_FEATURE',
        `mode ${requested} is not part of this version; modes that can run: ${others}`,
      );
    }
    return { mode: requested, reason: 'asked for by name', dataplane: open(options) };
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
