/** The order of a handover, and what stays when a step of it fails. */
import { describe, expect, test } from 'vitest';
import { Handover } from '../../src/agent/handover.ts';
import type { Mode, Refusal, Remains, Switchable } from '../../src/dataplane/dataplane.ts';
import type { DesiredState } from '../../src/model/desired.ts';

const STATE: DesiredState = { services: new Map(), node: { detector: { by: 'none' }, serviceCIDRs: [] } };
const DONE = { operations: 0, refusals: [] };

type Step = 'introduce' | 'prepare' | 'learn' | 'retire' | 'start';

/** Writes down what is asked of it; fails at one step if told to. */
class Fake implements Switchable {
  readonly mode: Mode;
  readonly #calls: string[];
  readonly #fails: Step | null;
  carried = { connections: 3, ended: false };
  refusals: readonly Refusal[] = [];

  constructor(mode: Mode, calls: string[], fails: Step | null = null) {
    this.mode = mode;
    this.#calls = calls;
    this.#fails = fails;
  }

  #call(step: Step | 'lead' | 'alone' | 'close'): void {
    this.#calls.push(`${this.mode} ${step}`);
    if (step === this.#fails) throw new Error(`${step} fails`);
  }

  async start() {
    this.#call('start');
    return { operations: 0, refusals: this.refusals };
  }
  async prepare() {
    this.#call('prepare');
    return { operations: 0, refusals: this.refusals };
  }
  async introduce() {
    this.#call('introduce');
  }
  lead() {
    this.#call('lead');
  }
  async alone() {
    this.#call('alone');
  }
  async affinities() {
    return [];
  }
  async learnAffinities() {
    this.#call('learn');
  }
  async apply() {
    return DONE;
  }
  async verify() {
    return { repaired: [] };
  }
  async close() {
    this.#call('close');
  }
  async retire(): Promise<Remains> {
    this.#call('retire');
    const calls = this.#calls;
    const { mode } = this;
    return {
      mode,
      carried: async () => this.carried,
      apply: async () => {},
      remove: async () => void calls.push(`${mode} remove`),
      close: async () => void calls.push(`${mode} remains close`),
    };
  }
}

interface Refusals {
  readonly old?: readonly Refusal[];
  readonly next?: readonly Refusal[];
}

function world(fails: { old?: Step; next?: Step } = {}, left: readonly Mode[] = [], refusals: Refusals = {}) {
  const calls: string[] = [];
  const modes: Mode[] = [];
  const quiet = () => {};
  const log = { error: quiet, warn: quiet, info: quiet, debug: quiet, trace: quiet };
  const first = new Fake('nft', calls, fails.old ?? null);
  first.refusals = refusals.old ?? [];
  const handover: Handover = new Handover(
    {
      log,
      open: (mode) => {
        const next = new Fake(mode, calls, fails.next ?? null);
        next.refusals = refusals.next ?? [];
        return next;
      },
      predecessors: async () => left.map((mode) => new Fake(mode, calls)),
      state: () => STATE,
      beforeRemoval: async () => {},
      onMode: () => modes.push(handover.mode),
      onDrained: () => {},
    },
    first,
  );
  return { calls, modes, handover };
}

describe('a handover', () => {
  test('the new one is complete before the old one is asked to stop', async () => {
    const { calls, modes, handover } = world();
    await handover.start(STATE);
    calls.length = 0;
    expect(await handover.switchTo('ebpf')).toMatchObject({ from: 'nft', to: 'ebpf', draining: 3 });
    expect(calls).toEqual([
      ...['nft introduce', 'ebpf prepare', 'ebpf prepare'],
      ...['ebpf learn', 'ebpf lead', 'nft retire'],
    ]);
    expect(modes).toEqual(['ebpf']);
    expect(handover.draining).toEqual([{ mode: 'nft', connections: 3 }]);
    await handover.close();
  });

  test('back again while the first one drains: its remains are taken up', async () => {
    const { calls, handover } = world();
    await handover.start(STATE);
    await handover.switchTo('ebpf');
    calls.length = 0;
    await handover.switchTo('nft');
    expect(calls[0]).toBe('nft remains close');
    expect(handover.mode).toBe('nft');
    expect(handover.draining).toEqual([{ mode: 'ebpf', connections: 3 }]);
    await handover.close();
  });

  test('what a dead agent left takes the same way at the start', async () => {
    const { calls, handover } = world({}, ['ebpf']);
    await handover.start(STATE);
    expect(calls).toEqual(['ebpf introduce', 'nft prepare', 'nft learn', 'nft lead', 'ebpf retire']);
    await handover.close();
  });

  // In the middle of one, nothing says which flows the programs keep: those of a node's own processes would be cleared.
  test('a switch waits for a look at flows that is under way, and the next look for the switch', async () => {
    const { calls, handover } = world();
    await handover.start(STATE);
    calls.length = 0;
    let end = () => {};
    const first = handover.undisturbed(() => new Promise<void>((resolve) => (end = resolve)));
    const switching = handover.switchTo('ebpf');
    const second = handover.undisturbed(async () => calls.push('look'));
    await new Promise((resolve) => setImmediate(resolve));
    expect(calls).toEqual([]);
    end();
    await Promise.all([first, switching, second]);
    expect(calls.slice(-2)).toEqual(['nft retire', 'look']);
    await handover.close();
  });

  test('before the first start another mode simply takes the place', async () => {
    const { calls, handover } = world();
    await handover.switchTo('ebpf');
    expect(calls).toEqual(['nft close']);
    expect(handover.mode).toBe('ebpf');
    await handover.close();
  });

  test.each([
    ['next', 'prepare'],
    ['next', 'learn'],
    ['old', 'introduce'],
    ['old', 'retire'],
  ] as const)('when the %s one fails at %s, the old one is in charge', async (who, step) => {
    const { calls, modes, handover } = world({ [who]: step });
    await handover.start(STATE);
    calls.length = 0;
    await expect(handover.switchTo('ebpf')).rejects.toThrow(`${step} fails`);
    expect(handover.mode).toBe('nft');
    expect(handover.switching).toBe(null);
    expect(modes).toEqual([]);
    // What the new one may have taken meanwhile drains, and the old one is put in order.
    expect(calls).toContain('ebpf retire');
    expect(calls.indexOf('nft start')).toBeGreaterThan(calls.indexOf('ebpf retire'));
    await handover.close();
  });

  test('one at a time', async () => {
    const { handover } = world();
    await handover.start(STATE);
    const first = handover.switchTo('ebpf');
    await expect(handover.switchTo('ipvs')).rejects.toMatchObject({ code: 'TP_BUSY' });
    await first;
    expect(handover.mode).toBe('ebpf');
    await handover.close();
  });

  const WEB: Refusal = { service: 'x/web', reason: 'the kernel refused it (ENOMEM)' };
  const NODE: Refusal = { service: '', reason: 'net.ipv4.vs.conntrack could not be set' };
  const OTHERWISE: Refusal = { service: 'x/dns', reason: 'no scheduler wlc; rr stays', served: 'otherwise' };

  test('a mode that would not serve what is served now does not take over, and says why', async () => {
    const { calls, modes, handover } = world({}, [], { next: [NODE, OTHERWISE, WEB] });
    await handover.start(STATE);
    await expect(handover.switchTo('ebpf')).rejects.toThrow(
      /mode ebpf would not serve a service that is served now: x\/web: .*ENOMEM/,
    );
    expect(calls).toContain('ebpf retire');
    expect(calls).not.toContain('ebpf lead');
    expect(calls).not.toContain('nft retire');
    expect({ mode: handover.mode, modes }).toEqual({ mode: 'nft', modes: [] });
    await handover.close();
  });

  test.for<[string, Refusals]>([
    ['is not served as it is', { old: [WEB], next: [WEB] }],
    ['is served in another way', { next: [OTHERWISE] }],
    ['is the whole node', { next: [NODE] }],
  ])('what %s is no reason against a switch', async ([, refusals]) => {
    const { handover } = world({}, [], refusals);
    await handover.start(STATE);
    expect(await handover.switchTo('ebpf')).toMatchObject({ to: 'ebpf' });
    await handover.close();
  });
});
