/** What could go wrong with native handles: closed, busy, collected, in a thread that ends, wrong arguments. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadNative } from '../../src/node/native.ts';
import { runChild } from '../node/support/child.ts';
import { canMakeNamespaces } from '../node/support/namespace.ts';

const native = loadNative();
const filter = () => {
  const bytes = Buffer.alloc(40);
  bytes[0] = 4;
  return bytes;
};
/** One well-formed deletion that matches nothing: UDP to 240.0.0.1 port 1. */
const ITEM = `(() => { const b = Buffer.alloc(40); b[0] = 4; b[1] = 17; b.writeUInt16LE(1, 4); b[8] = 240; b[11] = 1; return b; })()`;
const FILTER = `(() => { const b = Buffer.alloc(40); b[0] = 4; return b; })()`;

describe.skipIf(!canMakeNamespaces())('handles', () => {
  it('throw once closed; closing twice is closing once', async () => {
    const dump = new native.ConntrackDump('', filter());
    dump.close();
    dump.close();
    expect(() => dump.next(1)).toThrow(/closed/);
    const monitor = new native.RtMonitor('', 3, () => {});
    monitor.close();
    monitor.close();
    expect(() => monitor.ref()).toThrow(/closed/);
    expect(() => monitor.unref()).toThrow(/closed/);
  });

  it('refuse a second request while one is under way, and outlive their closing', async () => {
    const dump = new native.ConntrackDump('', filter());
    const first = dump.next(1000);
    expect(() => dump.next(1)).toThrow(/under way/);
    dump.close();
    expect(await first).toBeInstanceOf(Uint8Array);
    expect(() => dump.next(1)).toThrow(/closed/);
  });

  it('end with an empty batch again and again', async () => {
    const dump = new native.ConntrackDump('', filter());
    while ((await dump.next(1000)).length > 0);
    expect(await dump.next(1)).toHaveLength(0);
    dump.close();
  });

  it('need `new`, and their own methods', () => {
    const { RtMonitor, ConntrackDump } = native as unknown as Record<string, () => unknown>;
    expect(() => RtMonitor!()).toThrow();
    expect(() => ConntrackDump!()).toThrow();
    const dump = new native.ConntrackDump('', filter());
    expect(() => Reflect.apply(dump.next, {}, [1])).toThrow();
    expect(() => Reflect.apply(new native.RtMonitor('', 1, () => {}).close, dump, [])).toThrow();
    dump.close();
  });

  it('survive being collected while busy', async () => {
    const result = await runChild(
      `(async () => {
        for (let i = 0; i < 200; i++) {
          const pending = [new native.ConntrackDump('', ${FILTER}).next(100), native.conntrackDelete('', ${ITEM}), native.rtDump('', 2)];
          new native.ConntrackDump('', ${FILTER});
          gc();
          if (i % 10 === 0) await Promise.all(pending);
        }
        console.log('done');
      })();`,
      ['--expose-gc'],
    );
    expect(result).toMatchObject({ code: 0, stdout: 'done\n' });
  });

  it('do not keep a process alive unless asked', async () => {
    const forgotten = await runChild(`new native.RtMonitor('', 15, () => {}); console.log('end');`);
    expect(forgotten).toMatchObject({ code: 0, stdout: 'end\n' });
    const held = await runChild(`
      const monitor = new native.RtMonitor('', 15, () => {});
      monitor.ref();
      setTimeout(() => { console.log('alive'); monitor.unref(); }, 50).unref();`);
    expect(held).toMatchObject({ code: 0, stdout: 'alive\n' });
  });

  it('turn an exception of the listener into an uncaught one', async () => {
    const result = await runChild(`
      const { execFileSync } = require('node:child_process');
      execFileSync('ip', ['netns', 'add', 'tphandle-' + process.pid]);
      const path = '/run/netns/tphandle-' + process.pid;
      process.on('exit', () => execFileSync('ip', ['netns', 'del', 'tphandle-' + process.pid]));
      process.on('uncaughtException', (error) => { console.log('uncaught ' + error.message); monitor.close(); });
      const monitor = new native.RtMonitor(path, 1, () => { throw new Error('of the listener'); });
      monitor.ref();
      execFileSync('nsenter', ['--net=' + path, 'ip', 'link', 'set', 'lo', 'up']);`);
    expect(result).toMatchObject({ code: 0, stdout: 'uncaught of the listener\n' });
  });

  it('may be closed by the listener itself', async () => {
    const result = await runChild(`
      const { execFileSync } = require('node:child_process');
      execFileSync('ip', ['netns', 'add', 'tphandle-' + process.pid]);
      const path = '/run/netns/tphandle-' + process.pid;
      process.on('exit', () => execFileSync('ip', ['netns', 'del', 'tphandle-' + process.pid]));
      const monitor = new native.RtMonitor(path, 3, (rows) => { console.log(rows.length % 112); monitor.close(); });
      monitor.ref();
      execFileSync('nsenter', ['--net=' + path, 'ip', 'link', 'set', 'lo', 'up']);
      execFileSync('nsenter', ['--net=' + path, 'ip', 'addr', 'add', '10.0.0.1/8', 'dev', 'lo']);`);
    expect(result).toMatchObject({ code: 0, stdout: '0\n' });
  });
});

describe.skipIf(!canMakeNamespaces())('worker threads', () => {
  const inWorker = (body: string) => `
    const { Worker, isMainThread, parentPort } = require('node:worker_threads');
    const code = 'const native = require(' + JSON.stringify(require.resolve(Object.keys(require.cache).find((f) => f.endsWith('triplane.node')))) + ');' +
      'const { parentPort } = require("node:worker_threads");' + ${JSON.stringify(body)};
    const start = () => new Worker(code, { eval: true });`;

  it('load the addon and use all of it', async () => {
    const result = await runChild(`${inWorker(`(async () => {
        const monitor = new native.RtMonitor('', 3, () => {});
        const rows = (await native.rtDump('', 0)).length + native.rtDumpSync('', 1).length;
        const { deleted } = await native.conntrackDelete('', ${ITEM});
        parentPort.postMessage([rows > 0, deleted, native.conntrackCount('').entriesMax > 0]);
      })();`)}
      let left = 3;
      for (let i = 0; i < 3; i++) start().on('message', (m) => console.log(JSON.stringify(m))).on('exit', (code) => { if (--left === 0) console.log('exit ' + code); });`);
    expect(result).toMatchObject({ code: 0, stdout: `${'[true,0,true]\n'.repeat(3)}exit 0\n` });
  });

  it('may end at any moment', async () => {
    const result = await runChild(`${inWorker(`
        const monitor = new native.RtMonitor('', 15, () => {});
        monitor.ref();
        const again = () => native.conntrackDelete('', ${ITEM}).then(again);
        for (let i = 0; i < 3; i++) again();
        const dump = new native.ConntrackDump('', ${FILTER});
        dump.next(1000);
        native.rtDump('', 2);
        parentPort.postMessage('up');`)}
      (async () => {
        for (let i = 0; i < 25; i++) {
          const worker = start();
          await new Promise((resolve) => worker.once('message', resolve));
          await new Promise((resolve) => setTimeout(resolve, i % 7));
          await worker.terminate();
        }
        console.log(native.rtDumpSync('', 0).length > 0);
      })();`);
    expect(result).toMatchObject({ code: 0, stdout: 'true\n' });
  });
});

describe('arguments', () => {
  const functions = {
    rtDump: native.rtDump,
    rtDumpSync: native.rtDumpSync,
    conntrackDelete: native.conntrackDelete,
    conntrackCount: native.conntrackCount,
    lockHolder: native.lockHolder,
    RtMonitor: (...args: never[]) => Reflect.construct(native.RtMonitor, args).close(),
    ConntrackDump: (...args: never[]) => Reflect.construct(native.ConntrackDump, args).close(),
  } as Record<string, (...args: never[]) => unknown>;

  const bad: [string, unknown[]][] = [
    ['rtDump', []],
    ['rtDump', ['', 6]],
    ['rtDump', ['', -1]],
    ['rtDump', ['', 0.5]],
    ['rtDump', ['', Number.NaN]],
    ['rtDump', ['a\0b', 0]],
    ['rtDumpSync', [1, 0]],
    ['rtDumpSync', ['', '0']],
    ['conntrackDelete', ['']],
    ['conntrackDelete', ['', 'x']],
    ['conntrackDelete', ['', Buffer.alloc(39)]],
    ['conntrackDelete', ['', Buffer.alloc(40)]],
    ['conntrackDelete', ['', Buffer.alloc(40, 0xff)]],
    ['conntrackDelete', ['', new ArrayBuffer(40)]],
    ['conntrackCount', [null]],
    ['ConntrackDump', ['', Buffer.alloc(0)]],
    ['ConntrackDump', ['', Buffer.alloc(40)]],
    ['RtMonitor', ['', 0, () => {}]],
    ['RtMonitor', ['', 16, () => {}]],
    ['RtMonitor', ['', 1, {}]],
    ['lockHolder', ['', '']],
    ['lockHolder', ['', 'x'.repeat(108)]],
    ['lockHolder', ['', 'a\0b']],
  ];
  it.each(bad)('%s(%j) is a TypeError', (name, args) => {
    expect(() => functions[name]!(...(args as never[]))).toThrow(TypeError);
  });

  it('of any kind never do more than throw', async () => {
    const argument = fc.oneof(
      fc.anything(),
      fc.constantFrom('', 'x'),
      fc.integer(),
      fc.uint8Array({ maxLength: 120 }).map((bytes) => Buffer.from(bytes)),
      fc.constant(() => {}),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...Object.keys(functions)),
        fc.array(argument, { maxLength: 4 }),
        async (name, args) => {
          try {
            await functions[name]!(...(args as never[]));
          } catch (error) {
            expect(error).toBeInstanceOf(Error);
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});
