/**
 * What a packet costs in the BPF programs, alone: `node scripts/bench.mjs per-packet [xdp] [tc] [wire]`. It is a part of
 * `triplane bench`, too; per-packet/measure.ts says how it is measured.
 */
import process from 'node:process';
import { packetTable } from './modes/text.ts';
import { measurePackets, type PacketPart } from './per-packet/measure.ts';
import { describeMachine, headline, lookForQuiet } from './support/quiet.ts';

const given = process.argv.slice(2) as PacketPart[];
const say = (line: string) => process.stderr.write(`${line}\n`);
say(headline(describeMachine(), await lookForQuiet(5000)));
const flows = [1, 1 << 10, 1 << 16, 1 << 20];
const perPacket = await measurePackets({
  families: [4, 6],
  flows,
  say,
  ...(given.length > 0 && { parts: given }),
});
process.stdout.write(packetTable({ perPacket }));
