/** The program `triplane`. */
import process from 'node:process';
import { STANDARD_IO } from './io.ts';
import { runProgram } from './program.ts';

// `triplane get services | head`: the reader has what it wants.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

const exitCode = await runProgram(process.argv.slice(2), STANDARD_IO);
// A pipe takes 64 KiB at a time: ending before the reader has taken the rest would lose it. The callback of an
// empty write comes after all that was written before.
await Promise.all(
  [process.stdout, process.stderr].map((stream) => new Promise((done) => stream.write('', done))),
);
process.exit(exitCode);
