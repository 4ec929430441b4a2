/** What the agent sets in the kernel beside its rules: conntrack's settings and its own OOM score. */
import { writeFileSync } from 'node:fs';
import type { Config } from '../config/config.ts';
import { prepareBpfNode } from '../dataplane/ebpf/prepare.ts';
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

/** --init-only: all that an agent with no more than its mode's capabilities could not set by itself. */
export function initializeNode(config: Config, log: Log): void {
  prepareNode(config, log);
  if (config.proxyMode !== 'ebpf' && config.proxyMode !== 'auto') return;
  try {
    for (const line of prepareBpfNode()) log.info({}, `set ${line}`);
  } catch (error) {
    log.warn({}, `what ebpf mode needs of /proc/sys could not be set: ${(error as Error).message}`);
  }
}

/** What needs full privileges; what cannot be set is a warning, as the proxy works without. */
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
