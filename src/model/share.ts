/**
 * Makes a new desired service out of the parts of the old one where they say the same: a dataplane sees by
 * identity what stayed, and memory is not churned.
 */
import type { DesiredPort, DesiredService } from './desired.ts';
import { shareBackends } from './endpoints.ts';
import { same } from './same.ts';

/** The port made of the parts of its predecessor where they say the same; the predecessor itself if all do. */
function sharePort(port: DesiredPort, old: DesiredPort): DesiredPort {
  if (same(port, old)) return old;
  return {
    ...port,
    cluster: shareBackends(port.cluster, old.cluster),
    local: shareBackends(port.local, old.local),
    frontends: same(port.frontends, old.frontends) ? old.frontends : port.frontends,
  };
}

/** `next` with what it has in common with `old`; `old` itself when they say the same. */
export function shareService(next: DesiredService | null, old: DesiredService | null): DesiredService | null {
  if (next === null || old === null) return next;
  let changed = next.ports.length !== old.ports.length;
  const ports = next.ports.map((port, at) => {
    const matches = (other: DesiredPort | undefined) =>
      other !== undefined &&
      other.name === port.name &&
      other.family === port.family &&
      other.protocol === port.protocol;
    const previous = matches(old.ports[at]) ? old.ports[at] : old.ports.find(matches);
    const shared = previous ? sharePort(port, previous) : port;
    if (shared !== old.ports[at]) changed = true;
    return shared;
  });
  return changed ? { key: next.key, ports } : old;
}
