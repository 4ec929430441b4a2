/** Which dataplane an agent runs, and why. */
import type { Config } from '../config/config.ts';
import type { Dataplane, Mode } from '../dataplane/dataplane.ts';
import { IpvsDataplane } from '../dataplane/ipvs/ipvs-dataplane.ts';
import { NftDataplane } from '../dataplane/nft/nft-dataplane.ts';
import { TriplaneError } from '../model/errors.ts';
import { missingOf, modesThatRun, type ProbeReport } from '../probe/report.ts';

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

/**
 * Opens the dataplane of a mode; of the one that the probe says is best for `auto`. Throws TP_NO_FEATURE where
 * that cannot be: there is no silent fall-back.
 *
 * @param probe what was tried of this kernel; needed for `auto`
 */
export function chooseDataplane(
  requested: Mode | 'auto',
  options: DataplaneOptions,
  probe: ProbeReport | null = null,
): Choice {
  if (requested !== 'auto') {
    return { mode: requested, reason: 'asked for by name', dataplane: opener(requested)(options) };
  }
  const { mode, reason } = probe?.auto ?? { mode: '', reason: 'the kernel was not probed' };
  if (mode === '') throw new TriplaneError('TP_NO_FEATURE', `no mode can run here: ${reason}`);
  return { mode, reason, dataplane: opener(mode)(options) };
}

function opener(mode: Mode): (options: DataplaneOptions) => Dataplane {
  const open = OPENERS[mode];
  if (open) return open;
  const others = Object.keys(OPENERS).join(', ');
  throw new TriplaneError(
    'TP_NO_FEATURE',
    `mode ${mode} is not part of this version; modes that can run: ${others}`,
  );
}

/** What to tell a person whose mode cannot run: what it lacks, and the modes that could. */
export function explainMissing(error: unknown, requested: Mode | 'auto', probe: ProbeReport): unknown {
  if (requested === 'auto' || !(error instanceof TriplaneError) || error.code !== 'TP_NO_FEATURE')
    return error;
  const missing = missingOf(probe.rows, requested);
  const able = modesThatRun(probe.rows);
  const lacks = missing.length > 0 ? missing.join('; ') : error.message;
  return new TriplaneError(
    'TP_NO_FEATURE',
    `mode ${requested} cannot run: ${lacks}; modes that can: ${able.join(', ') || 'none'}`,
    { cause: error },
  );
}
