import type { ChildProcess } from 'node:child_process';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { takeLock } from '../../src/node/lock.ts';
import { loadNative } from '../../src/node/native.ts';
import { firstLine, startChild } from './support/child.ts';
import { canMakeNamespaces, makeNamespace, type Namespace } from './support/namespace.ts';

describe.skipIf(!canMakeNamespaces())('the lock of a network namespace', () => {
  let one: Namespace;
  let two: Namespace;
  const children: ChildProcess[] = [];

  beforeAll(() => {
    one = makeNamespace('tplock1');
    two = makeNamespace('tplock2');
  });
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
  });
  afterAll(() => {
    one?.remove();
    two?.remove();
  });

  async function holder(netns: string): Promise<ChildProcess> {
    const child = startChild(`
      const fd = native.lockTake(${JSON.stringify(netns)}, 'triplane/agent');
      console.log(fd >= 0 ? 'held' : 'taken');
      setInterval(() => {}, 1000);`);
    children.push(child);
    expect(await firstLine(child)).toBe('held');
    return child;
  }

  it('names the process that holds it, and is free once that process is killed', async () => {
    const child = await holder(one.path);
    const refusal = await takeLock('agent', one.path).catch((error: unknown) => error);
    expect(refusal).toMatchObject({ code: 'TP_LOCKED' });
    expect((refusal as Error).message).toMatch(
      new RegExp(`^process ${child.pid} \\(.*node.*\\) is already the agent of `),
    );
    expect((refusal as Error).message).not.toContain('\n');
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGKILL');
    await ended;
    const lock = await takeLock('agent', one.path);
    await lock.release();
  });

  it('is one for each namespace and each purpose', async () => {
    await holder(one.path);
    const locks = [await takeLock('agent', two.path), await takeLock('lab', one.path)];
    await expect(takeLock('agent', two.path)).rejects.toMatchObject({
      code: 'TP_LOCKED',
      message: expect.stringContaining(`process ${process.pid} `),
    });
    for (const lock of locks) await lock.release();
    await (await takeLock('agent', two.path)).release();
  });

  it('can be asked for more often than anybody answers', async () => {
    await holder(one.path);
    for (let i = 0; i < 40; i++) {
      await expect(takeLock('agent', one.path)).rejects.toMatchObject({ code: 'TP_LOCKED' });
    }
    const lock = await takeLock('agent', two.path);
    for (let i = 0; i < 40; i++) {
      await expect(takeLock('agent', two.path)).rejects.toMatchObject({
        message: expect.stringContaining(`process ${process.pid} `),
      });
    }
    await lock.release();
  });

  it('counts for a process that is inside the namespace as for one that names it', async () => {
    await holder(one.path);
    await one.inside(() => expect(takeLock('agent')).rejects.toMatchObject({ code: 'TP_LOCKED' }));
    expect(loadNative().lockHolder(two.path, 'triplane/agent')).toBe(-1);
  });

  it('refuses a purpose that is no name', async () => {
    for (const purpose of ['', 'A', 'a/b', 'a\0b', 'x'.repeat(65)]) {
      await expect(takeLock(purpose)).rejects.toThrow(RangeError);
    }
  });
});
