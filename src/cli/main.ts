/** The program `triplane`. */
import process from 'node:process';
import { STANDARD_IO } from './io.ts';
import { runProgram } from './program.ts';

// `triplane get services | head`: the reader has what it wants.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

// Writes to pipes, files and terminals are synchronous on Linux: nothing is lost by ending here.
process.exit(await runProgram(process.argv.slice(2), STANDARD_IO));
