// Running other programs: always by argument list, never through a shell.
import { spawn } from 'node:child_process';
import process from 'node:process';
import { root } from './files.mjs';

/**
 * Runs a program to its end with its output kept, for steps whose output matters only when they fail.
 * Resolves to { status, output }; status is 127 when the program is not there.
 */
export function runQuietly(command, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], ...options });
    let output = '';
    const keep = (chunk) => {
      output += chunk;
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', (error) => resolve({ status: 127, output: error.message }));
    child.on('close', (status, signal) =>
      resolve({ status: status ?? 1, output: signal ? `${output}\nended by ${signal}` : output }),
    );
  });
}

/** How to start npm: the one that started us if there is one, since another may be older or absent. */
export function npmCommand() {
  const npm = process.env.npm_execpath;
  if (npm && /npm-cli\.[cm]?js$/.test(npm)) return { command: process.execPath, args: [npm] };
  return { command: 'npm', args: [] };
}

export function lastLines(text, count) {
  return text.trimEnd().split('\n').slice(-count).join('\n');
}
