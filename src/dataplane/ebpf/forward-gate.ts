/**
 * Whether XDP may send packets past the stack: while no rule of the node would have been asked about them, or always,
 * or never. Rules come and go without notice to us, and listening to nftables makes everybody's changes slower, so
 * the chains are looked at once a second.
 */
import { type BaseChain, readBaseChains, readLegacyTables } from '../../node/netfilter.ts';

export type XdpForward = 'auto' | 'always' | 'never';

export interface ForwardState {
  readonly forward: 'allowed' | 'never';
  /** One line; '' where it is allowed without a but. */
  readonly reason: string;
}

const LOOK_MS = 1000;
const FAMILIES: Readonly<Record<number, string>> = { 1: 'inet', 2: 'ip', 10: 'ip6' };
/** NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING. */
const HOOKS: Readonly<Record<number, string>> = { 0: 'prerouting', 2: 'forward', 4: 'postrouting' };
const ACCEPT = 1;
/** Translation of the kernel's is none of a connection that we translate. */
const LEGACY = /^ip6? (filter|mangle|raw|security)$/;
const OWN = /^triplane(-|$)/;
const NAMED_MAX = 3;

/** What a forwarded packet meets on its way through the stack, one text each; ours is left out. */
export function skippedBy(chains: readonly BaseChain[], legacy: readonly string[]): string[] {
  const found = chains.flatMap(({ family, table, name, type, hook, policy, rules }) => {
    const place = HOOKS[hook];
    if (!FAMILIES[family] || !place || type !== 'filter' || OWN.test(table)) return [];
    if (rules === 0 && policy === ACCEPT) return [];
    return [`${FAMILIES[family]} ${table} ${name} (${place})`];
  });
  return [...found, ...legacy.filter((table) => LEGACY.test(table)).map((table) => `iptables ${table}`)];
}

export function forwardState(mode: XdpForward, skipped: readonly string[]): ForwardState {
  const named = skipped.slice(0, NAMED_MAX).join(', ');
  const more = skipped.length > NAMED_MAX ? ` and ${skipped.length - NAMED_MAX} more` : '';
  if (mode === 'never') return { forward: 'never', reason: 'switched off by --xdp-forward=never' };
  if (skipped.length === 0) return { forward: 'allowed', reason: '' };
  if (mode === 'always') return { forward: 'allowed', reason: `passes by: ${named}${more}` };
  return { forward: 'never', reason: `would pass by: ${named}${more}` };
}

export class ForwardGate {
  readonly #mode: XdpForward;
  readonly #netns: string;
  readonly #onChange: () => void;
  #state: ForwardState;
  #timer: NodeJS.Timeout | null = null;
  #looking: Promise<void> = Promise.resolve();

  /** `onChange` is called when state() says something else. */
  constructor(mode: XdpForward, netns: string, onChange: () => void) {
    this.#mode = mode;
    this.#netns = netns;
    this.#onChange = onChange;
    this.#state = { forward: 'never', reason: 'the rules of the node have not been looked at' };
  }

  get state(): ForwardState {
    return this.#state;
  }

  /** Looks, and goes on looking without keeping the process alive. */
  async begin(): Promise<void> {
    await this.look();
    if (this.#mode !== 'never') this.#timer = setInterval(() => void this.look(), LOOK_MS).unref();
  }

  /** What it finds is no older than the call. */
  look(): Promise<void> {
    this.#looking = this.#looking.then(() => this.#look());
    return this.#looking;
  }

  async #look(): Promise<void> {
    let next: ForwardState;
    try {
      const skipped =
        this.#mode === 'never' ? [] : skippedBy(await readBaseChains(this.#netns), readLegacyTables());
      next = forwardState(this.#mode, skipped);
    } catch (error) {
      const reason = `the rules of the node cannot be read: ${(error as Error).message}`;
      next = { forward: this.#mode === 'always' ? 'allowed' : 'never', reason };
    }
    const changed = next.forward !== this.#state.forward;
    this.#state = next;
    if (changed) this.#onChange();
  }

  async close(): Promise<void> {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
    await this.#looking;
  }
}
