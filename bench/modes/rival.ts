/** What a comparison with kube-proxy needs: its program, and the API server from which all proxies of it are fed. */
import { spawnSync } from 'node:child_process';
import { ApiServer, isExecutable, missingApiServer } from './api-server.ts';
import { ApiFeed } from './feed.ts';

export interface Rival {
  readonly program: string;
  readonly api: ApiServer;
  readonly feed: ApiFeed;
}

/** What the program says it is, as "Kubernetes v1.36.2"; '' when it says nothing. */
export function versionOf(program: string): string {
  return (spawnSync(program, ['--version'], { encoding: 'utf8', timeout: 10_000 }).stdout ?? '').trim();
}

/** Throws a RangeError that says what is missing. */
export function expectRival(program: string): void {
  if (!isExecutable(program)) throw new RangeError(`--kube-proxy: ${program} is no program that can be run`);
  const missing = missingApiServer();
  if (missing !== '') throw new RangeError(`--kube-proxy ${missing}`);
}

/** Throws as expectRival(). This process is in the API server's namespace from here on. */
export async function startRival(program: string): Promise<Rival> {
  expectRival(program);
  const api = await ApiServer.start();
  return { program, api, feed: new ApiFeed(api) };
}
