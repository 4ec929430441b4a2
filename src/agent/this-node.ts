/**
 * What the agent knows of its own Node object, and what it waits for before it touches the kernel.
 *
 * By the rules of kube-proxy's NodeManager (pkg/proxy/node.go): the Node and its addresses are waited for, but
 * not for ever; with --detect-local-mode=NodeCIDR its pod CIDRs are waited for. Where kube-proxy gives up on the
 * latter after five minutes and ends, this goes on waiting: to be started again would not help. A Node that is
 * deleted leaves its addresses, zone and pod CIDRs in force; only health says that it is gone.
 */
import type { NodeRecord, RecordChange } from '../model/records.ts';
import type { Log } from './status.ts';

/** kube-proxy's nodeIPsTimeout. */
const ADDRESSES_MS_MAX = 30_000;
const REMIND_MS = 60_000;

export interface ThisNodeOptions {
  readonly name: string;
  readonly log: Log;
  /** 'no': the source has no need of Node objects (manifests). */
  readonly isAwaited: 'yes' | 'no';
  /** Called once, when there is nothing to wait for any more. */
  readonly onReady: () => void;
  readonly addressesMsMax?: number;
}

type DetectMode = 'ClusterCIDR' | 'NodeCIDR' | 'BridgeInterface' | 'InterfaceNamePrefix';

export class ThisNode {
  /** The Node object exists. */
  known = false;
  /** It is to be there and is not: from a source without need of it, only once it was there and went. */
  absent: boolean;
  readonly #options: ThisNodeOptions;
  #detectMode: DetectMode;
  #record: NodeRecord | null = null;
  #isSynced = false;
  #isReady = false;
  #isPatient = true;
  #timers: NodeJS.Timeout[] = [];

  constructor(options: ThisNodeOptions, detectMode: DetectMode) {
    this.#options = options;
    this.#detectMode = detectMode;
    this.absent = options.isAwaited === 'yes';
  }

  /** What it waits for, in one line; '' when for nothing. */
  get waitingFor(): string {
    return this.#isReady ? '' : this.#missing();
  }

  /** Changes are known; the model keeps what a deleted Node last said. */
  note(changes: readonly RecordChange[]): void {
    const { name } = this.#options;
    for (const change of changes) {
      if (change.op === 'delete') {
        if (change.kind === 'Node' && change.key === name && this.known) {
          this.known = false;
          this.absent = true;
        }
      } else if (change.record.kind === 'Node' && change.record.name === name) {
        this.#record = change.record;
        this.known = true;
        this.absent = false;
      }
    }
  }

  /** The first full state is known. */
  synced(): void {
    this.#isSynced = true;
    this.look();
    if (this.#isReady) return;
    const { log, addressesMsMax } = this.#options;
    log.warn({}, `waiting: ${this.#missing()}`);
    this.#timers = [
      setTimeout(() => this.#loseHope(), addressesMsMax ?? ADDRESSES_MS_MAX),
      setInterval(() => log.warn({}, `still waiting: ${this.#missing()}`), REMIND_MS),
    ];
  }

  /** Looks whether the wait is over: call it after the record or the mode may have changed. */
  look(detectMode: DetectMode = this.#detectMode): void {
    this.#detectMode = detectMode;
    if (this.#isReady || !this.#isSynced || this.#missing() !== '') return;
    this.#isReady = true;
    this.stop();
    this.#options.onReady();
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers = [];
  }

  /** '' when nothing is. */
  #missing(): string {
    const { name, isAwaited } = this.#options;
    if (isAwaited === 'no') return '';
    const record = this.#record;
    if (this.#detectMode === 'NodeCIDR' && (record?.podCIDRs.length ?? 0) === 0) {
      return `Node ${name} ${record ? 'has no pod CIDR yet' : 'does not exist yet'} (--detect-local-mode=NodeCIDR)`;
    }
    if (!this.#isPatient || (record?.addresses.length ?? 0) > 0) return '';
    return `Node ${name} ${record ? 'has no address yet' : 'does not exist yet'}`;
  }

  #loseHope(): void {
    const missing = this.#missing();
    this.#isPatient = false;
    if (this.#missing() === '')
      this.#options.log.error({}, `${missing}: going on with the addresses of this machine`);
    this.look();
  }
}
