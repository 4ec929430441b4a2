/** What belongs to no service: settings, spans, devices. Writes only what differs. */
import type { DesiredNode, DesiredState, LocalDetector } from '../../model/desired.ts';
import type { Address, Cidr } from '../../model/records.ts';
import type { Refusal } from '../dataplane.ts';
import { LAYOUTS } from './abi.ts';
import type { Compiler } from './compiler.ts';
import { lifeNative } from './native-life.ts';
import {
  ClusterSpan,
  familiesOf,
  type NodeRules,
  podsKnownIn,
  settingFlags,
  writePrefixes,
} from './node-settings.ts';
import { Settings } from './settings.ts';

const { bytes: BYTES, members: M } = LAYOUTS.tp_settings;

export class NodeState {
  readonly settings: Settings;
  readonly #compiler: Compiler;
  readonly #spans: readonly ClusterSpan[];
  #node: DesiredNode;
  #rules: NodeRules;
  #written: Uint8Array | null = null;

  constructor(compiler: Compiler, rules: NodeRules, netns: string) {
    this.#compiler = compiler;
    this.#rules = rules;
    this.#node = { detector: { by: 'none' }, serviceCIDRs: [] };
    this.settings = new Settings(compiler.maps.settings);
    this.#spans = [new ClusterSpan(4, this.settings), new ClusterSpan(6, this.settings)];
    this.settings.setNodeNetns(lifeNative().netnsCookie(netns));
    if (this.settings.routeGeneration === 0) this.settings.advanceRoutes();
  }

  get detector(): LocalDetector {
    return this.#node.detector;
  }

  get isDraining(): boolean {
    return this.#rules.drain === 'on';
  }

  /** Before the services that depend on it. */
  setNode(node: DesiredNode): { operations: number; refusals: Refusal[] } {
    this.#node = node;
    const refusals = writePrefixes(this.#compiler.maps.settings, node);
    this.#writeFlags();
    const { rules } = this.#compiler;
    const [speaks, podsKnown] = [familiesOf(node), podsKnownIn(node)];
    const same = sameSet(speaks, rules.speaks) && sameSet(podsKnown, rules.podsKnown);
    const operations = same ? 0 : this.#compiler.setRules({ ...rules, speaks, podsKnown });
    this.#remember();
    return { operations: operations + 1, refusals };
  }

  setRules(rules: Partial<NodeRules>): void {
    this.#rules = { ...this.#rules, ...rules };
    this.#writeFlags();
    this.#remember();
  }

  #writeFlags(): void {
    const flags = settingFlags(this.#node, this.#rules);
    if (this.settings.flags !== flags) this.settings.flags = flags;
  }

  /** Before new services are seen: what they need is inside. */
  growSpans(addresses: Iterable<Address>): void {
    const list = [...addresses];
    for (const span of this.#spans) span.grow(list, this.#cidrs());
    this.#remember();
  }

  renewSpans(state: DesiredState): void {
    const list = clusterIPs(state);
    for (const span of this.#spans) span.renew(list, this.#cidrs());
    this.#remember();
  }

  #cidrs(): readonly Cidr[] {
    return this.#node.serviceCIDRs;
  }

  #remember(): void {
    this.#written = this.#compiler.maps.settings.bytes.slice(0, BYTES);
  }

  /** True: somebody else had written into the settings. */
  repair(): boolean {
    const { bytes } = this.#compiler.maps.settings;
    if (!this.#written) return false;
    this.#written.set(bytes.subarray(M.route_gen, M.route_gen + 4), M.route_gen);
    if (Buffer.compare(this.#written, bytes.subarray(0, BYTES)) === 0) return false;
    bytes.set(this.#written);
    return true;
  }
}

const sameSet = <T>(a: ReadonlySet<T>, b: ReadonlySet<T>) =>
  a.size === b.size && [...a].every((one) => b.has(one));

export function clusterIPs(state: DesiredState): Address[] {
  const found: Address[] = [];
  for (const { ports } of state.services.values())
    for (const { frontends } of ports)
      for (const { kind, address } of frontends) if (kind === 'ClusterIP') found.push(address);
  return found;
}
