import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { ServiceRecord } from '../../../src/model/records.ts';
import { createManifestSource, type ManifestSource } from '../../../src/source/manifests/source.ts';
import { Recorder } from '../../support/recorder.ts';

let dir: string;
let source: ManifestSource | null;
let seen: Recorder;

// The recorder gives up first, and says what it was waiting for.
vi.setConfig({ testTimeout: 60_000 });

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), `triplane-manifests-${process.pid}-`));
  source = null;
  seen = new Recorder();
});

afterEach(async () => {
  await source?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const at = (name: string) => path.join(dir, name);
const write = (name: string, ...documents: string[]) => writeFileSync(at(name), documents.join('---\n'));

function svc(name: string, port: number | string = 80, ip = '10.200.1.1'): string {
  return `apiVersion: v1\nkind: Service\nmetadata: {name: ${name}}\nspec:\n  clusterIP: ${ip}\n  ports: [{port: ${port}}]\n`;
}

function portOf(name: string): number | undefined {
  return (seen.records.get(`Service default/${name}`) as ServiceRecord | undefined)?.ports[0]?.port;
}

async function start(target = dir, options = {}): Promise<void> {
  source = createManifestSource(target, { quietMs: 20, quietMaxMs: 200, pollIntervalMs: 60_000, ...options });
  await source.start(seen);
  await seen.until('synced', () => seen.synced === 1);
}

/** Proves that the source has looked since: a new object has arrived. */
let probes = 0;
async function probe(): Promise<void> {
  const name = `probe-${++probes}`;
  write(`zz-${name}.yaml`, svc(name));
  await seen.until(name, () => portOf(name) === 80);
}

describe('manifest source', () => {
  it.each([['a path that does not exist', 'missing.yaml', /missing\.yaml: does not exist/]])(
    'does not start with %s',
    async (_what, name, message) => {
      const failing = createManifestSource(at(name));
      await expect(failing.start(seen)).rejects.toThrow(message);
      await expect(failing.start(seen)).rejects.toMatchObject({ code: 'TP_BAD_MANIFEST' });
      await failing.stop();
    },
  );

  it('reads YAML, JSON, lists, and only what is a manifest', async () => {
    write('a.yaml', svc('a'), svc('b'), 'apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n');
    const item = { metadata: { name: 'c' }, spec: { clusterIP: '10.200.1.3', ports: [] } };
    writeFileSync(at('c.json'), JSON.stringify({ apiVersion: 'v1', kind: 'ServiceList', items: [item] }));
    write('d.yml', `apiVersion: v1\nkind: List\nitems:\n- ${svc('d').trim().replaceAll('\n', '\n  ')}\n`);
    write('.hidden.yaml', svc('hidden'));
    write('readme.txt', svc('txt'));
    mkdirSync(at('sub.yaml'));
    await start();
    expect(seen.keys()).toEqual(['a', 'b', 'c', 'd'].map((name) => `Service default/${name}`));
    expect(source!.foreignObjects()).toBe(1);
    expect(source!.health()).toMatchObject([{ what: `manifests ${dir}`, synced: true, failures: 0 }]);
    expect([...seen.problems]).toEqual([]);
  });

  it('delivers only real differences', async () => {
    write('a.yaml', svc('a'), svc('b'));
    await start();
    write('a.yaml', '# a comment\n', svc('b'), svc('a', 81));
    await seen.until('the new port', () => portOf('a') === 81);
    expect(seen.log).toEqual(['set Service default/a', 'set Service default/b', 'set Service default/a']);
  });

  it('follows files that appear, are replaced by rename, and vanish', async () => {
    await start();
    write('a.yaml', svc('a'));
    await seen.until('a', () => portOf('a') === 80);
    write('.a.tmp', svc('a', 81));
    renameSync(at('.a.tmp'), at('a.yaml'));
    await seen.until('a replaced', () => portOf('a') === 81);
    unlinkSync(at('a.yaml'));
    await seen.until('a gone', () => portOf('a') === undefined);
  });

  it('follows one file, also when it is replaced or gone for a while', async () => {
    write('a.yaml', svc('a'));
    write('b.yaml', svc('b'));
    await start(at('a.yaml'));
    expect(seen.keys()).toEqual(['Service default/a']);
    write('tmp', svc('a', 81));
    renameSync(at('tmp'), at('a.yaml'));
    await seen.until('replaced', () => portOf('a') === 81);
    unlinkSync(at('a.yaml'));
    await seen.until('gone', () => seen.records.size === 0);
    write('a.yaml', svc('a', 82));
    await seen.until('back', () => portOf('a') === 82);
  });

  it('follows the symlinks of a mounted ConfigMap', async () => {
    mkdirSync(at('..v1'));
    write('..v1/a.yaml', svc('a'));
    symlinkSync('..v1', at('..data'));
    symlinkSync('..data/a.yaml', at('a.yaml'));
    await start();
    mkdirSync(at('..v2'));
    write('..v2/a.yaml', svc('a', 81));
    symlinkSync('..v2', at('..data_tmp'));
    renameSync(at('..data_tmp'), at('..data'));
    await seen.until('the new version', () => portOf('a') === 81);
    expect(seen.log).not.toContain('delete Service default/a');
  });

  it('follows a symlink to a file elsewhere', async () => {
    mkdirSync(at('else'));
    mkdirSync(at('m'));
    write('else/a.txt', svc('a'));
    symlinkSync('../else/a.txt', at('m/a.yaml'));
    await start(at('m'));
    write('else/a.txt', svc('a', 81));
    await seen.until('the edit', () => portOf('a') === 81);
  });

  it('keeps everything when the directory is gone, and follows the new one', async () => {
    mkdirSync(at('m'));
    write('m/a.yaml', svc('a'));
    await start(at('m'));
    renameSync(at('m'), at('old'));
    await seen.until('a problem', () => seen.problems.has(`path ${at('m')}`));
    expect(portOf('a')).toBe(80);
    mkdirSync(at('m'));
    write('m/a.yaml', svc('a', 81));
    await seen.until('the new directory', () => portOf('a') === 81 && seen.problems.size === 0);
    write('m/a.yaml', svc('a', 82));
    await seen.until('an edit in it', () => portOf('a') === 82);
    expect(seen.log).not.toContain('delete Service default/a');
  });

  it('polls where events fail', async () => {
    const outside = mkdtempSync(path.join(tmpdir(), `triplane-outside-${process.pid}-`));
    try {
      // The real directory is swapped two links away, where nobody watches.
      mkdirSync(path.join(outside, 'v1'));
      mkdirSync(path.join(outside, 'v2'));
      writeFileSync(path.join(outside, 'v1/a.yaml'), svc('a'));
      writeFileSync(path.join(outside, 'v2/a.yaml'), svc('a', 81));
      symlinkSync(path.join(outside, 'v1'), path.join(outside, 'current'));
      symlinkSync(path.join(outside, 'current'), at('m'));
      await start(at('m'), { pollIntervalMs: 50 });
      symlinkSync(path.join(outside, 'v2'), path.join(outside, 'next'));
      renameSync(path.join(outside, 'next'), path.join(outside, 'current'));
      await seen.until('the swap', () => portOf('a') === 81);
    } finally {
      rmSync(outside, { recursive: true, force: true });
    }
  });
});

describe('bad manifests', () => {
  it('takes the beginning of what a file said for a file that is being written, until it stays so', async () => {
    await start(dir, { quietMs: 200 });
    write('a.yaml', svc('a'), svc('b', 81));
    await seen.until('both', () => portOf('b') === 81);
    write('a.yaml', svc('a'));
    await probe();
    expect(portOf('b')).toBe(81);
    await seen.until('the end of b', () => portOf('b') === undefined);
    expect(portOf('a')).toBe(80);
  });

  it.each([
    ['broken JSON', '{"kind": "Service", '],
    ['broken YAML', 'a: [1\nb: }\n'],
    ['no UTF-8', Buffer.from([0x61, 0x3a, 0x20, 0xff, 0xfe])],
    ['an empty file', ''],
    ['a scalar', 'hello\n'],
    ['half a manifest', svc('a').slice(0, 60)],
  ])('keep what the file said before: %s', async (_what, text) => {
    write('a.yaml', svc('a'), svc('b'));
    write('c.yaml', svc('c'));
    await start();
    writeFileSync(at('a.yaml'), text);
    await seen.until('a problem', () => seen.problems.size > 0);
    await probe();
    expect(seen.log.filter((line) => line.startsWith('delete'))).toEqual([]);
    expect([portOf('a'), portOf('b'), portOf('c')]).toEqual([80, 80, 80]);
    write('a.yaml', svc('a', 81));
    await seen.until('the repair', () => portOf('a') === 81 && portOf('b') === undefined);
    expect([...seen.problems]).toEqual([]);
  });

  it('lose nothing while a slow writer is in the middle of a word', async () => {
    write('a.yaml', svc('a'), svc('b'));
    await start(dir, { quietMs: 50 });
    writeFileSync(at('a.yaml'), `${svc('a', 81)}---\n${svc('b').slice(0, 25)}`);
    await seen.until('the first half', () => portOf('a') === 81);
    write('a.yaml', svc('a', 82), svc('b'));
    await seen.until('the whole', () => portOf('a') === 82);
    expect(seen.log).not.toContain('delete Service default/b');
  });

  it('are taken at their word when they end within a line for good', async () => {
    write('a.yaml', svc('a'), svc('b'));
    await start();
    writeFileSync(at('a.yaml'), svc('a').replace(/}]\n$/, '}] # end'));
    await seen.until('b to go', () => portOf('b') === undefined);
    expect(portOf('a')).toBe(80);
  });

  it('refuses a bad document alone and names it', async () => {
    write('a.yaml', svc('a'), svc('b', 'no'), svc('"x\\ny"'), 'kind: [\n', svc('e', 80, '""'), svc('f'));
    await start();
    expect(seen.keys()).toEqual(['Service default/a', 'Service default/f']);
    const file = `file ${at('a.yaml')}`;
    expect(
      [...seen.problems.values()].map(({ code, object, reason }) => [
        code,
        object,
        reason.replace(`${at('a.yaml')} `, ''),
      ]),
    ).toEqual(
      expect.arrayContaining([
        [
          'TP_BAD_OBJECT',
          `${file} document 3`,
          expect.stringContaining('Service "x\\ny": metadata.name is "x\\ny"'),
        ],
        ['TP_BAD_MANIFEST', `${file} document 4`, expect.stringMatching(/^line 2\d: /)],
        [
          'TP_BAD_OBJECT',
          'Service default/b',
          expect.stringContaining('document 2: spec.ports[0].port is "no"'),
        ],
        [
          'TP_BAD_OBJECT',
          'Service default/e',
          expect.stringContaining('document 5: spec.clusterIP is missing'),
        ],
      ]),
    );
    expect(seen.problems.size).toBe(4);
  });

  it('keeps the record of an object that turns malformed', async () => {
    write('a.yaml', svc('a'), svc('b'));
    await start();
    write('a.yaml', svc('a', 70_000), svc('b', 81));
    await seen.until('b', () => portOf('b') === 81);
    expect(portOf('a')).toBe(80);
    expect(seen.problems.get('Service default/a')?.reason).toContain('spec.ports[0].port is 70000');
    write('a.yaml', svc('b', 81));
    await seen.until('a is gone', () => portOf('a') === undefined && seen.problems.size === 0);
  });

  it('names a file that it may not read', async () => {
    write('a.yaml', svc('a'));
    mkdirSync(at('loop'));
    symlinkSync('b.yaml', at('b.yaml'));
    await start();
    expect(seen.keys()).toEqual(['Service default/a']);
    expect(seen.problems.get(`file ${at('b.yaml')}`)).toMatchObject({ code: 'TP_BAD_MANIFEST' });
  });
});

describe('a start over files that a predecessor has read', () => {
  const copies = () => path.join(dir, 'kept');
  async function restart(): Promise<void> {
    await source?.stop();
    seen = new Recorder();
    await start(dir, { copies: copies() });
  }
  const BOTH = [svc('a'), svc('b')] as const;

  it.each<[string, string | Buffer, [number | undefined, number | undefined]]>([
    ['broken JSON', '{"kind": "Service", ', [80, 80]],
    ['broken YAML', 'a: [1\nb: }\n', [80, 80]],
    ['no UTF-8', Buffer.from([0x61, 0x3a, 0x20, 0xff, 0xfe]), [80, 80]],
    ['empty', '', [80, 80]],
    ['half of what it said', svc('a').slice(0, 60), [80, 80]],
    ['one document good, one broken', `${svc('a', 81)}---\nkind: [\n`, [81, 80]],
    ['an object malformed', `${svc('a', 81)}---\n${svc('b', 70_000)}---\n${svc('c')}`, [81, 80]],
    ['an object gone', svc('a', 81), [81, undefined]],
    ['unchanged', BOTH.join('---\n'), [80, 80]],
  ])('loses nothing: %s', async (_what, text, ports) => {
    write('a.yaml', ...BOTH);
    write('z.yaml', svc('z'));
    await restart();
    expect([...seen.problems]).toEqual([]);
    for (let round = 0; round < 2; round++) {
      await source!.stop();
      writeFileSync(at('a.yaml'), text);
      await restart();
      expect([portOf('a'), portOf('b'), portOf('z')]).toEqual([...ports, 80]);
    }
    write('a.yaml', svc('a', 82));
    await seen.until('the repair', () => portOf('a') === 82 && portOf('b') === undefined);
    expect([...seen.problems]).toEqual([]);
    await restart();
    expect([portOf('a'), portOf('b'), portOf('z')]).toEqual([82, undefined, 80]);
  });

  it('knows nothing of a file that is gone, and keeps no copy of it', async () => {
    write('a.yaml', ...BOTH);
    write('z.yaml', svc('z'));
    await restart();
    await source!.stop();
    unlinkSync(at('a.yaml'));
    await restart();
    expect(seen.keys()).toEqual(['Service default/z']);
    await source!.stop();
    writeFileSync(at('a.yaml'), '{');
    await restart();
    expect(seen.keys()).toEqual(['Service default/z']);
    expect(seen.problems.size).toBe(1);
  });

  it('goes on where copies cannot be kept, and says so', async () => {
    write('a.yaml', ...BOTH);
    writeFileSync(copies(), 'in the way');
    await restart();
    expect(seen.keys()).toEqual(['Service default/a', 'Service default/b']);
    expect([...seen.problems.values()]).toMatchObject([
      { code: 'TP_NOT_KEPT', object: `copies of ${dir}`, reason: expect.stringContaining(copies()) },
    ]);
  });
});

describe('one object in two places', () => {
  it('belongs to the first file in byte order until that lets go', async () => {
    write('b.yaml', svc('x', 82));
    await start();
    expect(portOf('x')).toBe(82);
    write('a.yaml', svc('x', 81));
    await seen.until('the takeover', () => portOf('x') === 81);
    expect(seen.problems.get('Service default/x')?.reason).toBe(
      `also in ${at('b.yaml')}; ${at('a.yaml')} counts`,
    );
    write('B.yaml', svc('x', 66));
    await seen.until('the capital', () => portOf('x') === 66);
    unlinkSync(at('B.yaml'));
    await seen.until('the first again', () => portOf('x') === 81);
    unlinkSync(at('a.yaml'));
    await seen.until('the other', () => portOf('x') === 82 && seen.problems.size === 0);
    expect(seen.log).not.toContain('delete Service default/x');
  });

  it('moves between files without vanishing', async () => {
    write('a.yaml', svc('x'), svc('y'));
    write('b.yaml', svc('z'));
    await start();
    write('b.yaml', svc('z'), svc('x'));
    write('a.yaml', svc('y', 81));
    await seen.until('the move', () => portOf('y') === 81);
    await probe();
    expect(portOf('x')).toBe(80);
    expect(seen.log).not.toContain('delete Service default/x');
  });

  it('belongs to the first document within a file', async () => {
    write('a.yaml', svc('x', 81), svc('x', 82));
    await start();
    expect(portOf('x')).toBe(81);
    expect(seen.problems.get('Service default/x')?.reason).toContain('document 2 repeats document 1');
  });
});

describe('many', () => {
  it('reads 10,000 services of 10 endpoints from one JSON file', async () => {
    const items: unknown[] = [];
    for (let i = 0; i < 10_000; i++) {
      const name = `svc-${i}`;
      const ip = `${i >> 8}.${i & 255}`;
      items.push({
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name },
        spec: { clusterIP: `10.200.${ip}`, ports: [{ port: 80 }] },
      });
      items.push({
        apiVersion: 'discovery.k8s.io/v1',
        kind: 'EndpointSlice',
        metadata: { name, labels: { 'kubernetes.io/service-name': name } },
        addressType: 'IPv4',
        ports: [{ port: 80 }],
        endpoints: Array.from({ length: 10 }, (_, e) => ({
          addresses: [`10.${e}.${ip}`],
          nodeName: `node-${e}`,
        })),
      });
    }
    writeFileSync(at('all.json'), JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
    await start();
    expect(seen.records.size).toBe(20_000);
    expect(seen.problems.size).toBe(0);
  });
});
