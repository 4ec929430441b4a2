/** A node where kube-proxy has carried traffic until now, for the tests of a file. */
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { clusterCidrFlag } from '../../../src/lab/wiring.ts';
import type { Family } from '../../../src/model/records.ts';
import { type SwitchSpec, SwitchWorld } from '../../support/switch-world.ts';
import { buildProgram, PROGRAM, triplane } from './node.ts';

export const IPTABLES = { 4: 'iptables', 6: 'ip6tables' } as const;

/** Call it in a describe: the node is made before its tests, and removed after them. */
export function nodeOfKubeProxy(spec: SwitchSpec) {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create(spec);
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
    await triplane(world.node, 'cleanup');
  });
  afterAll(() => world?.remove());

  /** What a command on the node prints; what it says on stderr is wrong only where it fails. */
  const inside = async (command: readonly string[], input = ''): Promise<string> => {
    const { status, stdout, stderr } = await world.node.exec(command, input);
    if (status !== 0) expect(`${command.join(' ')}: ${stderr}`).toBe('');
    return stdout;
  };

  return {
    world: () => world,
    inside,
    /** @returns what it printed */
    cleanup: (...more: string[]) => inside([...PROGRAM, 'cleanup', '--kube-proxy', ...more]),
    clusterCIDR(family: Family): string {
      const cidrs = clusterCidrFlag(world.lab.plan).split(',');
      return cidrs.find((one) => one.includes(':') === (family === 6))!;
    },
  };
}
