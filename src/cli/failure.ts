/** How a command ends that cannot do what it was asked: one line, and an exit code. */
import { CommanderError } from 'commander';
import { ERRORS, type ErrorCode, TriplaneError } from '../model/errors.ts';
import { escapeText } from '../observe/escape.ts';
import { EXIT, type ExitCode, ExitWith } from './exit-with.ts';

export interface Failure {
  /** One line without its newline; '' when everything has been said (help, version). */
  readonly line: string;
  readonly exit: ExitCode;
}

const USAGE_CODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['TP_BAD_FLAG', 'TP_BAD_CONFIG']);
/** Commander's ways to say that it has shown what was asked for. */
const SHOWN = new Set(['commander.help', 'commander.helpDisplayed', 'commander.version']);

export function failureOf(error: unknown): Failure {
  if (error instanceof ExitWith) return { line: '', exit: error.exit };
  if (error instanceof CommanderError) return commanderFailure(error);
  if (error instanceof TriplaneError) return coded(error.code, error.message);
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'EPERM' || code === 'EACCES') return coded('TP_NO_PRIVILEGE', message);
  const text = error instanceof Error ? `${error.name}: ${message}` : String(error);
  const where =
    error instanceof Error ? (error.stack ?? '').split('\n').find((line) => /^\s+at /.test(line)) : undefined;
  return { line: `triplane: unexpected: ${oneLine(text)}${oneLine(where ?? '')}`, exit: EXIT.failure };
}

function commanderFailure(error: CommanderError): Failure {
  if (SHOWN.has(error.code)) return { line: '', exit: error.exitCode === 0 ? EXIT.ok : EXIT.usage };
  return coded('TP_BAD_FLAG', error.message.replace(/^error: /, '').replaceAll('\n', ' '));
}

function coded(code: ErrorCode, message: string): Failure {
  const text = oneLine(message).replace(/\.$/, '');
  return {
    line: `triplane: ${code}: ${text}. ${ERRORS[code].remedy}`,
    exit: USAGE_CODES.has(code) ? EXIT.usage : EXIT.failure,
  };
}

function oneLine(text: string): string {
  return escapeText(text.replace(/\s*\n\s*/g, '; '));
}
