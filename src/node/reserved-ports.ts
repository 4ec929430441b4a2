/**
 * Ports that the kernel gives to nobody by itself (net.ipv4.ip_local_reserved_ports; both families, and of one
 * network namespace). Synchronous, because the file shows the namespace of the thread that opens it.
 */
import { readFileSync, writeFileSync } from 'node:fs';

const FILE = '/proc/sys/net/ipv4/ip_local_reserved_ports';

export interface PortSpan {
  readonly first: number;
  readonly last: number;
}

/** "8080,9148-9150" as spans, sorted and merged. */
export function parsePorts(text: string): PortSpan[] {
  const spans = text
    .trim()
    .split(',')
    .filter((part) => part !== '')
    .map((part) => {
      const [first = '', last = first] = part.split('-');
      return { first: Number(first), last: Number(last) };
    });
  return merge(spans);
}

export function formatPorts(spans: readonly PortSpan[]): string {
  return spans.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`)).join(',');
}

function merge(spans: readonly PortSpan[]): PortSpan[] {
  const out: { first: number; last: number }[] = [];
  for (const span of spans.toSorted((a, b) => a.first - b.first)) {
    const last = out.at(-1);
    if (last && span.first <= last.last + 1) last.last = Math.max(last.last, span.last);
    else out.push({ ...span });
  }
  return out;
}

export function addPorts(spans: readonly PortSpan[], more: readonly PortSpan[]): PortSpan[] {
  return merge([...spans, ...more]);
}

export function removePorts(spans: readonly PortSpan[], less: readonly PortSpan[]): PortSpan[] {
  let left = merge(spans);
  for (const { first, last } of less)
    left = left.flatMap((span) =>
      [
        { first: span.first, last: Math.min(span.last, first - 1) },
        { first: Math.max(span.first, last + 1), last: span.last },
      ].filter((part) => part.first <= part.last),
    );
  return left;
}

/** Throws an Error with an errno code where /proc/sys is not to be had. */
export function readReservedPorts(): string {
  return readFileSync(FILE, 'utf8').trim();
}

export function writeReservedPorts(spans: readonly PortSpan[]): void {
  // Without the newline, an empty list would be no write at all.
  writeFileSync(FILE, `${formatPorts(spans)}\n`);
}
