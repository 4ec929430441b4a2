/** Bare network namespaces for tests that need no traffic. */
import { netnsPath } from '../../src/lab/paths.ts';
import { createNamespaces } from '../../src/lab/run.ts';
import { removeNamespaces } from '../../src/lab/teardown.ts';

let made = 0;

export interface Bare {
  /** Their names, to run programs in. */
  readonly names: readonly string[];
  /** Their paths, as a dataplane takes them. */
  readonly paths: readonly string[];
  readonly remove: () => void;
}

/** They go with the process at the latest. */
export async function bareNamespaces(count: number): Promise<Bare> {
  const names = Array.from({ length: count }, () => `tpb${process.pid}-${made++}`);
  const remove = () => {
    process.off('exit', remove);
    removeNamespaces(names);
  };
  process.on('exit', remove);
  await createNamespaces(names);
  return { names, paths: names.map(netnsPath), remove };
}
