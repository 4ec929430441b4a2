/** Where a command writes. */
import process from 'node:process';

export interface Io {
  out(text: string): void;
  err(text: string): void;
}

export const STANDARD_IO: Io = {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
};
