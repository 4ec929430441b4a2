/** The marks by which the rules name a virtual service of IPVS, and the label of conntrack that says what is ours. */

/**
 * The low byte of every mark of ours. Marks of others are flags in other places (kube-proxy 0x4000 and 0x8000,
 * Calico's upper half, Cilium's 0x0f00) or small whole numbers: IPVS takes any packet for this node whose mark
 * is the number of a virtual service.
 */
const SIGN = 0x7a;

/** Of a packet whose mark is one of ours, as a rule asks for it. */
export const MARKED = `meta mark & 0xff == ${SIGN}`;

/** What is left of a mark beside the sign. */
export const POOL_NUMBER_MAX = 0xffffff;

/** The firewall mark of a pool; 0, which is nobody's, for number 0. */
export function markOf(pool: number): number {
  return pool === 0 ? 0 : ((pool << 8) | SIGN) >>> 0;
}

/** The pool of a mark; 0 when it is none of ours. */
export function poolOfMark(mark: number): number {
  return (mark & 0xff) === SIGN ? mark >>> 8 : 0;
}

/**
 * The bit of conntrack's labels that says: this connection's port is ours to translate. Marks belong to everybody, labels to
 * hardly anybody: Open vSwitch, who uses them, has its connections in zones of its own.
 */
export const PORTED_LABEL = SIGN;
