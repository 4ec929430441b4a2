/** What the agent sets in the kernel beside its rules: conntrack's settings and its own OOM score. */
import { writeFileSync } from 'node:fs';
import type { Config } from '../config/config.ts';
import { same } from '../model/same.ts';
import { applyConntrackSettings, type ConntrackSettings, forwardingWarnings } from '../node/sysctls.ts';
import type { Log } from './status.ts';

function conntrackOf(config: Config): ConntrackSettings {
  return {
    maxPerCore: config.conntrackMaxPerCore,
    min: config.conntrackMin,
    tcpEstablishedMs: config.conntrackTcpEstablishedMs,
    tcpCloseWaitMs: config.conntrackTcpCloseWaitMs,
    tcpBeLiberal: config.conntrackTcpBeLiberal,
    udpMs: config.conntrackUdpMs,
    udpStreamMs: config.conntrackUdpStreamMs,
  };
}

/** What needs full privileges. All of --init-only; what cannot be set is a warning, as the proxy works without. */
export function prepareNode(config: Config, log: Log): void {
  const { changed, warnings } = applyConntrackSettings(conntrackOf(config));
  for (const line of changed) log.info({}, `set ${line}`);
  for (const line of [...warnings, ...forwardingWarnings([4])]) log.warn({}, line);
  try {
    writeFileSync('/proc/self/oom_score_adj', String(config.oomScoreAdj));
  } catch (error) {
    log.warn({}, `oom_score_adj could not be set to ${config.oomScoreAdj}: ${(error as Error).message}`);
  }
}

/** Whether prepareNode() would set something else. What an administrator changed by hand meanwhile stays. */
export function settingsChanged(before: Config, after: Config): boolean {
  return before.oomScoreAdj !== after.oomScoreAdj || !same(conntrackOf(before), conntrackOf(after));
}
