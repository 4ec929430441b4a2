/** A BPF file system of a test's own: only who runs under it sees it, and it outlives them. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';

export class OwnBpf {
  readonly folder: string;
  readonly #keeper: ChildProcess;

  private constructor(folder: string, keeper: ChildProcess) {
    this.folder = folder;
    this.#keeper = keeper;
  }

  static async mount(folder: string): Promise<OwnBpf> {
    mkdirSync(folder, { recursive: true });
    const script = 'mount -t bpf none "$0" && echo mounted && exec sleep infinity';
    const keeper = spawn('unshare', ['-m', 'sh', '-c', script, folder], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(keeper.stdout!, 'data');
    return new OwnBpf(folder, keeper);
  }

  /** Starts a program where it is seen. */
  get under(): readonly string[] {
    return ['nsenter', '-m', '-t', String(this.#keeper.pid)];
  }

  /** @returns what the command printed */
  inside(command: readonly string[]): string {
    const [program, ...args] = [...this.under, ...command];
    const { status, stdout, stderr } = spawnSync(program!, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`${command.join(' ')}: ${stderr}`);
    return stdout;
  }

  async end(): Promise<void> {
    const gone = once(this.#keeper, 'exit');
    this.#keeper.kill('SIGKILL');
    await gone;
  }
}
