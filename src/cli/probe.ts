/** `triplane probe` */
import { Command } from 'commander';
import { FEATURES } from '../node/switches.ts';
import type { ProbeReport, ProbeRow } from '../probe/report.ts';
import { EXIT, ExitWith } from './exit-with.ts';
import type { Io } from './io.ts';
import { MACHINERY, type Machinery, need } from './machinery.ts';
import { type Column, type OutputFormat, outputOption, renderTable, renderValue } from './output.ts';

export function probeCommand(io: Io, machinery: Machinery = MACHINERY): Command {
  return new Command('probe')
    .description(
      'try what each mode needs against this kernel, leaving nothing behind. Exit code 1: no mode can run',
    )
    .addHelpText('after', NOTES)
    .addOption(outputOption())
    .action(async ({ output }: { output: OutputFormat }) => {
      const report = await (await need(machinery.probe, 'probing of the kernel'))();
      io.out(
        output === 'json' || output === 'yaml'
          ? await renderValue(report, output)
          : probeText(report, output),
      );
      if (report.auto.mode === '') throw new ExitWith(EXIT.failure);
    });
}

const NOTES = `
WEIGHT required: the mode cannot run without it. better: the mode runs in a lesser degree.
ANSWER unknown: it could not be tried; WHAT TO DO says why.
TRIPLANE_WITHOUT=feature,... leaves features out, to see what a node does that lacks them:
${Object.entries(FEATURES)
  .map(([name, what]) => `  ${name.padEnd(16)}${what}`)
  .join('\n')}`;

const COLUMNS: readonly Column<ProbeRow>[] = [
  { title: 'MODE', text: (row) => row.mode },
  { title: 'NEED', text: (row) => row.need },
  { title: 'WEIGHT', text: (row) => row.weight },
  { title: 'ANSWER', text: (row) => row.answer },
  { title: 'WHAT TO DO', text: (row) => row.remedy },
];

export function probeText(report: ProbeReport, format: 'table' | 'wide'): string {
  const { mode, reason } = report.auto;
  const untried = report.rows.some(({ weight, answer }) => weight === 'required' && answer === 'unknown');
  const none = untried ? 'no mode is known to run' : 'no mode can run';
  const choice = mode === '' ? `${none}: ${reason}` : `auto takes ${mode}: ${reason}`;
  return `kernel ${report.kernel}\n\n${renderTable(report.rows, COLUMNS, format)}\n${choice}\n`;
}
