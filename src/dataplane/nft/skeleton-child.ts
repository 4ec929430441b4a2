/**
 * Applies one nft text through libnftables, in a process of its own: the library ends its process when it
 * cannot open a socket, and aborts on some input. Reads the text from standard input; prints nothing on
 * success, the library's messages on failure (exit code 1).
 *
 * Arguments: the network namespace's path, or nothing.
 */
import { readFileSync } from 'node:fs';
import { close, DataType, isNullPointer, load, open } from 'ffi-rs';
import { loadNative } from '../../node/native.ts';

const LIBRARY = 'libnftables';

function call(funcName: string, retType: DataType, paramsType: DataType[], paramsValue: unknown[]): unknown {
  return load({ library: LIBRARY, funcName, retType, paramsType, paramsValue } as Parameters<typeof load>[0]);
}

/** Reads the text only when everything else is there. */
function apply(read: () => string): string {
  open({ library: LIBRARY, path: 'libnftables.so.1' });
  try {
    const context = call('nft_ctx_new', DataType.External, [DataType.U32], [0]);
    if (isNullPointer(context as never)) return 'libnftables gives no context';
    const on = (name: string, ...args: unknown[]) =>
      call(
        name,
        DataType.I32,
        [DataType.External, ...args.map(() => DataType.String)],
        [context, ...args],
      ) as number;
    on('nft_ctx_buffer_output');
    on('nft_ctx_buffer_error');
    const text = read();
    const status = text === '' ? 0 : on('nft_run_cmd_from_buffer', text);
    const message = call(
      'nft_ctx_get_error_buffer',
      DataType.String,
      [DataType.External],
      [context],
    ) as string;
    call('nft_ctx_free', DataType.Void, [DataType.External], [context]);
    return status === 0 ? '' : message.trim() || 'libnftables refused the rules without a message';
  } finally {
    close(LIBRARY);
  }
}

const netns = process.argv[2] ?? '';
if (netns) (loadNative() as { netnsEnter(path: string): void }).netnsEnter(netns);
const complaint = apply(() => readFileSync(0, 'utf8'));
if (complaint) {
  process.stderr.write(`${complaint}\n`);
  process.exitCode = 1;
}
