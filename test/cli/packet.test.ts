import { describe, expect, it } from 'vitest';
import { explanationOf } from '../../src/agent/explanation.ts';
import type { Explanation } from '../../src/agent/status.ts';
import { explanationText } from '../../src/cli/explain.ts';
import { parsePacket } from '../../src/cli/packet.ts';
import { switchText } from '../../src/cli/switch.ts';
import { parseAddress } from '../../src/model/address.ts';

const A = (text: string) => parseAddress(text)!;

describe('the packet of explain', () => {
  it.each([
    ['10.0.0.1', '10.96.0.10:53/UDP', '10.0.0.1', '10.96.0.10', 53, 'UDP'],
    ['10.0.0.1', '10.96.0.10:80', '10.0.0.1', '10.96.0.10', 80, 'TCP'],
    ['10.0.0.1', '10.96.0.10:1/sctp', '10.0.0.1', '10.96.0.10', 1, 'SCTP'],
    ['fd00::1', '[fd00::a]:65535/tcp', 'fd00::1', 'fd00::a', 65535, 'TCP'],
    ['[fd00::1]', '[FD00:0::A]:80', 'fd00::1', 'fd00::a', 80, 'TCP'],
    ['010.0.0.1', '010.96.0.010:80', '10.0.0.1', '10.96.0.10', 80, 'TCP'],
  ])('%s %s', (source, destination, from, address, port, protocol) => {
    expect(parsePacket(source, destination)).toEqual({
      source: from,
      destination: { address, port },
      protocol,
    });
  });

  it.each([
    ['x', '10.0.0.1:80', /source "x"/],
    ['10.0.0.1', '10.0.0.1', /of the form/],
    ['10.0.0.1', '10.0.0.1:0', /1-65535/],
    ['10.0.0.1', '10.0.0.1:65536', /1-65535/],
    ['10.0.0.1', '10.0.0.1:80/ICMP', /TCP, UDP or SCTP/],
    ['10.0.0.1', '10.0.0:80', /names no address/],
    ['10.0.0.1', 'web:80', /names no address/],
    ['fd00::1', 'fd00::a:80', /of the form/],
    ['10.0.0.1', '[fd00::a]:80', /different families/],
    ['10.0.0.1', '10.0.0.1:80/TCP/UDP', /of the form/],
  ])('%s %s is refused', (source, destination, says) => {
    expect(() => parsePacket(source, destination)).toThrow(says);
  });
});

describe('what is told', () => {
  const packet = parsePacket('10.0.0.1', '10.96.0.10:80');
  const backend = (address: string, masquerade: boolean, local: boolean) => ({
    address: A(address),
    port: 8080,
    local,
    masquerade,
  });
  const forward = (...backends: ReturnType<typeof backend>[]) =>
    explanationOf({
      action: 'forward',
      port: { name: 'a/web:http' },
      backends,
      because: ['it is so', 'and so'],
    });

  it.each<[Explanation, string]>([
    [forward(backend('10.1.0.1', false, true)), 'goes to the one backend of a/web:http'],
    [
      forward(backend('10.1.0.1', true, true), backend('10.1.0.2', true, false)),
      'goes to one of 2 backends of a/web:http, masqueraded',
    ],
    [
      forward(backend('10.0.0.1', true, true), backend('10.1.0.2', false, false)),
      'goes to one of 2 backends of a/web:http, masqueraded where it says so below',
    ],
    [explanationOf({ action: 'reject', how: 'tcp-reset', because: [] }), 'refused with a TCP reset'],
    [
      explanationOf({ action: 'reject', how: 'port-unreachable', because: [] }),
      'refused with ICMP port unreachable',
    ],
    [explanationOf({ action: 'drop', because: [] }), 'dropped without an answer'],
    [explanationOf({ action: 'pass', because: [] }), 'passes untouched: it is no service traffic'],
  ])('%#', (explanation, outcome) => {
    expect(explanation.outcome).toBe(outcome);
    expect(explanationText(packet, explanation)).toMatch(/^10\.0\.0\.1 -> 10\.96\.0\.10:80\/TCP: /);
  });

  it('step by step, then the backends', () => {
    expect(
      explanationText(packet, forward(backend('fd00::1', true, true), backend('10.1.0.2', false, false))),
    ).toBe(
      [
        '10.0.0.1 -> 10.96.0.10:80/TCP: goes to one of 2 backends of a/web:http, masqueraded where it says so below',
        'because:',
        '  1. it is so',
        '  2. and so',
        'backends:',
        '  [fd00::1]:8080  (on this node, masqueraded)',
        '  10.1.0.2:8080',
        '',
      ].join('\n'),
    );
  });

  it('a switch', () => {
    expect(switchText({ from: 'nft', to: 'ipvs', draining: 3, durationMs: 12.6 })).toBe(
      'switched from nft to ipvs in 13 ms; 3 connections stay on nft until they end\n',
    );
    expect(switchText({ from: 'nft', to: 'nft', draining: 0, durationMs: 0 })).toBe(
      'the mode is nft already\n',
    );
    expect(switchText({ from: '', to: 'nft', draining: 0, durationMs: 1 })).toBe(
      'switched from none to nft in 1 ms\n',
    );
  });
});
