/** Moving an agent from mode to mode under load, with in the way what may be on a node. */
import { readdirSync } from 'node:fs';
import { expect } from 'vitest';
import type { SwitchResult } from '../../../src/agent/status.ts';
import type { Mode } from '../../../src/dataplane/dataplane.ts';
import type { SwitchSpec, SwitchWorld } from '../../support/switch-world.ts';
import { eventually } from './node.ts';

export const KEEPERS = ['table ip triplane-keeper', 'table ip6 triplane-keeper'];
export const TABLES = ['table ip triplane', 'table ip6 triplane'];

/** Somebody else's firewall: what connection tracking does not know is dropped. */
const FIREWALL = `table inet foreign {
  chain forward { type filter hook forward priority 0; policy accept; ct state invalid counter drop; }
}
`;
/** Connection tracking takes up no connection in the middle. */
const STRICT = ['net/netfilter/nf_conntrack_tcp_loose=0'];

export interface Surroundings extends Omit<SwitchSpec, 'label'> {
  readonly title: string;
  /** Somebody else's tables, which also keep connection tracking awake. */
  readonly firewall: boolean;
}

export const BARE: Surroundings = { title: 'a bare namespace', firewall: false, sysctls: STRICT };
export const BY_PACKETS: Surroundings = {
  ...{ title: 'a foreign firewall, strict tracking, by packets', firewall: true, sysctls: STRICT },
};
export const BY_SOCKETS: Surroundings = {
  ...{ title: 'a foreign firewall, strict tracking, sockets served', firewall: true, sysctls: STRICT },
  cgroups: 'per-pod',
};

export async function surround(world: SwitchWorld, { firewall }: Surroundings): Promise<void> {
  if (!firewall) return;
  const { stderr } = await world.node.exec(['nft', '-f', '-'], FIREWALL);
  if (stderr !== '') throw new Error(stderr);
}

export interface Round {
  readonly modes: readonly Mode[];
  /** By each way, open from the beginning: connections, datagram flows of connected sockets and as many of others. */
  readonly connections: number;
  readonly datagrams: number;
  /** The same, opened in the mode that the first switch leads to. */
  readonly later: { readonly connections: number; readonly datagrams: number };
  /** New connections a second by each way. */
  readonly rate: number;
  readonly intervalMs: number;
  /** Traffic before and after each switch. */
  readonly pauseMs: number;
}

/** Goes round under traffic by every way. What was lost is told of each switch, one line each. */
export async function goRound(
  world: SwitchWorld,
  round: Round,
): Promise<{ readonly switches: readonly SwitchResult[]; readonly wrong: readonly string[] }> {
  const { modes, connections, datagrams, later, rate, intervalMs, pauseMs } = round;
  const flow = () => new Promise((resolve) => setTimeout(resolve, pauseMs));
  const neighbour = await world.neighbour();
  await world.open(connections, { datagrams, intervalMs });
  await world.load(rate);
  const switches: SwitchResult[] = [];
  const wrong: string[] = [];
  let seen = neighbour.saw();
  for (const mode of modes) {
    await flow();
    const result = await world.switchTo(mode);
    expect(result.to).toBe(mode);
    switches.push(result);
    // There are open connections, so what a mode keeps for them is there.
    if (!modes.includes('ipvs')) expect(world.tables()).toEqual(mode === 'ebpf' ? KEEPERS : TABLES);
    await flow();
    const now = neighbour.saw();
    for (const place of neighbour.places) expect(now[place]).toBeGreaterThan(seen[place]);
    seen = now;
    for (const line of await world.endLoads()) wrong.push(`to ${mode}: ${line}`);
    if (switches.length === 1) await world.open(later.connections, { ...later, intervalMs });
    await world.load(rate);
  }
  await flow();
  wrong.push(...(await world.stop()));
  return { switches, wrong };
}

/** Nothing is in the kernel but what the mode itself has there. */
export async function expectDrained(world: SwitchWorld, mode: 'nft' | 'ebpf'): Promise<void> {
  expect((await world.status()).mode).toMatchObject({ mode, failure: '', switching: '' });
  await eventually(async () => (await world.status()).mode.draining).toEqual([]);
  expect(world.tables()).toEqual(mode === 'nft' ? TABLES : []);
  if (mode === 'nft') expect(pins(world)).toEqual([]);
}

/** The folders of what is pinned of ebpf mode. */
export function pins(world: SwitchWorld): string[] {
  return readdirSync('/sys/fs/bpf').filter((name) => name.includes(world.lab.name));
}
