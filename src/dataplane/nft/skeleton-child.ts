/**
 * Applies one nft text through libnftables, in a process of its own: the library ends its process when it
 * cannot open a socket, and aborts on some input. Reads the text from standard input; prints nothing on
 * success, the library's messages on failure (exit code 1).
 *
 * Arguments: the network namespace's path, or nothing.
 */
import process from 'node:process';
import { text } from 'node:stream/consumers';
import { close, DataType, isNullPointer, load, open } from 'ffi-rs';
import { loadNative } from '../../node/native.ts';

const LIBRARY = 'libnftables';

function call(funcName: string, retType: DataType, paramsType: DataType[], paramsValue: unknown[]): unknown {
  return load({ library: LIBRARY, funcName, retType, paramsType, paramsValue } as Parameters<typeof load>[0]);
}

/** Whoever began this process ahead gives the text when everything else is there. */
async function apply(given: () => Promise<string>): Promise<string> {
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
    const rules = await given();
    const status = rules === '' ? 0 : on('nft_run_cmd_from_buffer', rules);
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
// Not readFileSync(0): it fails with EAGAIN while nothing has been written yet.
const complaint = await apply(() => text(process.stdin));
if (complaint) {
  process.stderr.write(`${complaint}\n`);
  process.exitCode = 1;
}
