/** `triplane explain SRC DST:PORT/PROTO` */
import { Command, Option } from 'commander';
import type { ExplainRequest, Explanation } from '../agent/status.ts';
import { formatSocket } from '../model/socket.ts';
import { escapeText } from '../observe/escape.ts';
import { askAgent, socketOption } from './admin-client.ts';
import type { Io } from './io.ts';
import { renderValue } from './output.ts';
import { type PacketArguments, parsePacket } from './packet.ts';

interface ExplainOptions {
  readonly adminSocket: string;
  readonly from: ExplainRequest['from'];
  readonly interface: string;
  readonly output: 'text' | 'json' | 'yaml';
}

export function explainCommand(io: Io): Command {
  return new Command('explain')
    .description(
      'what happens to a packet, and why: the first packet of a flow, as the running agent sees it',
    )
    .argument('<source>', 'the address it comes from')
    .argument('<destination>', 'where it goes: 10.96.0.10:53/UDP, [fd00::a]:443 (TCP unless said otherwise)')
    .addOption(
      new Option('--from <sender>', 'who sends it; unknown: told by the source address')
        .choices(['node', 'pod', 'outside', 'unknown'])
        .default('unknown'),
    )
    .option('--interface <name>', 'the interface through which it arrives', '')
    .addOption(
      new Option('-o, --output <format>', 'text, json or yaml')
        .choices(['text', 'json', 'yaml'])
        .default('text'),
    )
    .addOption(socketOption())
    .action(async (sourceText: string, destinationText: string, options: ExplainOptions) => {
      const packet = parsePacket(sourceText, destinationText);
      const request: ExplainRequest = {
        source: packet.source,
        ...packet.destination,
        destination: packet.destination.address,
        protocol: packet.protocol,
        from: options.from,
        interfaceName: options.interface,
      };
      const explanation = await askAgent<Explanation>(options.adminSocket, 'POST', '/v1/explain', request);
      const { output } = options;
      io.out(
        output === 'text' ? explanationText(packet, explanation) : await renderValue(explanation, output),
      );
    });
}

/** The outcome first, then why, then the backends. */
export function explanationText(packet: PacketArguments, explanation: Explanation): string {
  const { source, destination, protocol } = packet;
  const lines = [`${source} -> ${formatSocket(destination)}/${protocol}: ${explanation.outcome}`, 'because:'];
  for (const [at, step] of explanation.because.entries()) lines.push(`  ${at + 1}. ${step}`);
  if (explanation.backends.length > 0) lines.push('backends:');
  for (const backend of explanation.backends) {
    const marks = [backend.local ? 'on this node' : '', backend.masquerade ? 'masqueraded' : ''].filter(
      (mark) => mark !== '',
    );
    lines.push(`  ${formatSocket(backend)}${marks.length === 0 ? '' : `  (${marks.join(', ')})`}`);
  }
  return lines.map((line) => `${escapeText(line)}\n`).join('');
}
