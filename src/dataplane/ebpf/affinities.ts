/** What sticky services remember of their clients, between tp_affinities and words that every mode knows. */
import type { Family } from '../../model/records.ts';
import type { AffinityView } from '../dataplane.ts';
import { LAYOUTS, readAddress, writeAddress } from './abi.ts';
import { secondsOf, ticksOf } from './clock.ts';
import type { Compiler } from './compiler.ts';
import type { PortEntry } from './entries.ts';
import { SideMap } from './maps.ts';

/** struct tp_affinity_key: client, then service. struct tp_affinity: four words. */
const SERVICE = 16;
const KEY_BYTES = 20;
const VALUE = { backend: 0, incarnation: 4, lastUsed: 8, bytes: 16 } as const;
const B = LAYOUTS.tp_backend;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function incarnationOf(compiler: Compiler, record: number): number {
  return compiler.maps.backends.view.getUint32(record * B.bytes + B.members.incarnation, true);
}

function* portsOf(compiler: Compiler): Generator<PortEntry> {
  for (const ports of compiler.services.values()) yield* ports;
}

/** @param now ticks of the programs' clock, which ticks `hz` times a second before it is shifted */
export function readAffinities(compiler: Compiler, now: number, hz: number): AffinityView[] {
  const map = new SideMap(compiler.maps.handles.tp_affinities!);
  const ports = new Map([...portsOf(compiler)].map((port) => [port.id, port]));
  const found: AffinityView[] = [];
  for (const key of map.keys()) {
    const value = map.get(key);
    const port = ports.get(viewOf(key).getUint32(SERVICE, true));
    if (!value || !port) continue;
    const view = viewOf(value);
    const record = view.getUint32(VALUE.backend, true);
    const known = record < compiler.maps.backends.entries;
    if (!known || incarnationOf(compiler, record) !== view.getUint32(VALUE.incarnation, true)) continue;
    const idle = secondsOf((now - view.getUint32(VALUE.lastUsed, true)) | 0, hz);
    const secondsLeft = port.desired.affinitySeconds - Math.max(0, idle);
    if (secondsLeft <= 0) continue;
    const { name, family, protocol } = port.desired;
    const { address, port: number } = compiler.backends.read(record);
    found.push({
      ...{ port: name, family, protocol, secondsLeft },
      client: readAddress(key, 0, family),
      backend: { address, port: number },
    });
  }
  return found;
}

/**
 * Of a client that is in the map already, the later time counts: the map may be one that has drained while the other mode
 * gave the client another backend.
 */
export function writeAffinities(
  compiler: Compiler,
  views: readonly AffinityView[],
  now: number,
  hz: number,
): void {
  const map = new SideMap(compiler.maps.handles.tp_affinities!);
  const ports = new Map([...portsOf(compiler)].map((port) => [keyOf(port.desired), port]));
  for (const view of views) {
    const port = ports.get(keyOf({ ...view, name: view.port }));
    const record = port && recordOf(compiler, port, view);
    if (record === undefined) continue;
    const key = new Uint8Array(KEY_BYTES);
    writeAddress(key, 0, view.client);
    viewOf(key).setUint32(SERVICE, port!.id, true);
    const idle = Math.max(0, port!.desired.affinitySeconds - view.secondsLeft);
    const lastUsed = (now - ticksOf(idle, hz)) >>> 0;
    const known = map.get(key);
    if (known && ((viewOf(known).getUint32(VALUE.lastUsed, true) - lastUsed) | 0) >= 0) continue;
    const value = new Uint8Array(VALUE.bytes);
    viewOf(value).setUint32(VALUE.backend, record, true);
    viewOf(value).setUint32(VALUE.incarnation, incarnationOf(compiler, record), true);
    viewOf(value).setUint32(VALUE.lastUsed, lastUsed, true);
    map.update(key, value);
  }
}

function keyOf(port: { readonly name: string; readonly family: Family; readonly protocol: string }): string {
  return `${port.name} ${port.family} ${port.protocol}`;
}

function recordOf(compiler: Compiler, port: PortEntry, { backend }: AffinityView): number | undefined {
  if (port.desired.affinitySeconds === 0) return undefined;
  return [...port.cluster.records, ...port.local.records].find((record) => {
    const { address, port: number } = compiler.backends.read(record);
    return address === backend.address && number === backend.port;
  });
}
