/**
 * How a pool is scheduled: kernel scheduler, its flags, persistence and weights, from the flag and from
 * annotations (which arrive as DesiredPort.settings, without their prefix triplane.dev/):
 *
 * - ipvs-scheduler: a scheduler's name;
 * - ipvs-scheduler-flags: of sh and mh, "port" (hash the client's port, too) and "fallback" (another backend
 *   where the hashed one has weight 0), separated by commas;
 * - ipvs-weights: "local=3,10.0.7.0/24=2,10.0.8.9=5,default=1"; the first that fits a backend counts.
 */
import { cidrContains, parseAddress, parseCidr } from '../../model/address.ts';
import type { Backend, DesiredPort } from '../../model/desired.ts';
import type { Cidr } from '../../model/records.ts';
import type { ServiceSettings } from './packed-ipvs.ts';
import { commonPort } from './scheme.ts';

/** Linux net/netfilter/ipvs/ip_vs_*.c, the `.name` of each scheduler. */
// biome-ignore format: a list that reads better in one line
const SCHEDULERS = ['rr', 'wrr', 'lc', 'wlc', 'fo', 'ovf', 'lblc', 'lblcr', 'dh', 'sh', 'mh', 'sed', 'nq', 'twos'];

/** IP_VS_SVC_F_* of linux/ip_vs.h; SCHED1 and SCHED2 mean the same to sh and mh. */
const PERSISTENT = 0x1;
/** Set by the kernel itself. */
export const HASHED = 0x2;
const SCHED_FALLBACK = 0x8;
const SCHED_PORT = 0x10;
const FLAG_NAMES: Readonly<Record<string, number>> = {
  port: SCHED_PORT,
  'sh-port': SCHED_PORT,
  'mh-port': SCHED_PORT,
  fallback: SCHED_FALLBACK,
  'sh-fallback': SCHED_FALLBACK,
  'mh-fallback': SCHED_FALLBACK,
};
const WEIGHT_MAX = 65535;
const DEFAULT_WEIGHT = 1;

export interface Scheduling extends ServiceSettings {
  weightOf(backend: Backend): number;
}

type Refuse = (reason: string) => void;

function schedulerOf(wanted: string | undefined, fallback: string, refuse: Refuse): string {
  if (wanted === undefined || wanted === '') return fallback;
  if (SCHEDULERS.includes(wanted)) return wanted;
  refuse(`triplane.dev/ipvs-scheduler: there is no scheduler ${wanted}; ${fallback} stays`);
  return fallback;
}

function flagsOf(text: string | undefined, scheduler: string, refuse: Refuse): number {
  if (!text) return 0;
  if (scheduler !== 'sh' && scheduler !== 'mh') {
    refuse(`triplane.dev/ipvs-scheduler-flags: only sh and mh have flags, not ${scheduler}`);
    return 0;
  }
  let flags = 0;
  for (const name of text.split(',').map((part) => part.trim())) {
    const flag = FLAG_NAMES[name];
    if (flag === undefined) refuse(`triplane.dev/ipvs-scheduler-flags: there is no flag ${name}`);
    else flags |= flag;
  }
  return flags;
}

type WeightRule = (backend: Backend) => number | null;

function weightRule(part: string): WeightRule | null {
  const [who = '', number = ''] = part.split('=').map((side) => side.trim());
  const weight = /^\d{1,5}$/.test(number) ? Number(number) : 0;
  if (weight < 1 || weight > WEIGHT_MAX) return null;
  if (who === 'default') return () => weight;
  if (who === 'local') return (backend) => (backend.local ? weight : null);
  const cidr: Cidr | null = who.includes('/') ? parseCidr(who) : null;
  if (cidr) return (backend) => (cidrContains(cidr, backend.address) ? weight : null);
  const address = parseAddress(who);
  return address ? (backend) => (backend.address === address ? weight : null) : null;
}

function weightsOf(text: string | undefined, refuse: Refuse): (backend: Backend) => number {
  const rules: WeightRule[] = [];
  for (const part of (text ?? '').split(',').filter((one) => one.trim() !== '')) {
    const rule = weightRule(part);
    if (rule) rules.push(rule);
    else refuse(`triplane.dev/ipvs-weights: ${part.trim()} is not WHO=1..${WEIGHT_MAX}`);
  }
  return (backend) => {
    for (const rule of rules) {
      const weight = rule(backend);
      if (weight !== null) return weight;
    }
    return DEFAULT_WEIGHT;
  };
}

/** @param refuse is told what of the annotations cannot be used, one line each; the rest of them counts */
export function schedulingOf(port: DesiredPort, fallback: string, refuse: Refuse): Scheduling {
  const { settings } = port;
  const scheduler = schedulerOf(settings['ipvs-scheduler'], fallback, refuse);
  const flags = flagsOf(settings['ipvs-scheduler-flags'], scheduler, refuse);
  const weightOf = weightsOf(settings['ipvs-weights'], refuse);
  if (port.affinitySeconds === 0) return { scheduler, flags, timeoutSeconds: 0, weightOf };
  if (commonPort(port) !== null) {
    return { scheduler, flags: flags | PERSISTENT, timeoutSeconds: port.affinitySeconds, weightOf };
  }
  // Backends on different ports: persistence cannot translate them, a hash of the client's address can.
  return { scheduler: 'sh', flags: SCHED_FALLBACK, timeoutSeconds: 0, weightOf };
}
