/** A kernel that refuses what a program sends it, while a test wants it: refuse.c, preloaded. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ROOT } from './checkout.ts';

const SOURCE = path.join(ROOT, 'test/support/refuse.c');

export class Refusal {
  readonly #folder = mkdtempSync(path.join(os.tmpdir(), 'triplane-refuse-'));
  readonly #file = path.join(this.#folder, 'wanted');

  constructor() {
    const library = path.join(this.#folder, 'refuse.so');
    const { status, stderr } = spawnSync(
      'g++',
      ['-x', 'c', '-shared', '-fPIC', '-o', library, SOURCE, '-ldl'],
      {
        encoding: 'utf8',
      },
    );
    if (status !== 0) throw new Error(stderr);
  }

  /** Of the program that is to meet it. */
  get environment(): Record<string, string> {
    return { LD_PRELOAD: path.join(this.#folder, 'refuse.so'), TRIPLANE_TEST_REFUSE: this.#file };
  }

  /**
   * From now on, until none(): sending to nftables or IPVS, or changing and making BPF objects, fails with this error.
   * @param passing so many pass before; counted from the first time that it is another number
   */
  begin(
    of: 'nft' | 'ipvs' | 'bpf',
    error: 'ENOMEM' | 'ENOSPC' | 'ENOBUFS' | 'EPERM' | 'E2BIG',
    passing = 0,
  ): void {
    const next = `${this.#file}.next`;
    const number = os.constants.errno[error as keyof typeof os.constants.errno];
    writeFileSync(next, `${of} ${number} ${passing}\n`);
    renameSync(next, this.#file);
  }

  none(): void {
    rmSync(this.#file, { force: true });
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true });
  }
}
