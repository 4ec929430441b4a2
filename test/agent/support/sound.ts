/** After a fault: the kernel as a fresh start would make it. */
import { expect } from 'vitest';
import type { Mode } from '../../../src/dataplane/dataplane.ts';
import type { SwitchWorld } from '../../support/switch-world.ts';
import { eventually, logged, type OwnAgent } from './node.ts';

/** No comparison with the kernel by the clock: what is repaired was noticed. */
export const NO_CLOCK = ['--sync-period', '1h'];

/** The next agent, in the place of the one there was, finds nothing that it would have made otherwise. */
export async function expectSound(
  world: SwitchWorld,
  mode: Mode,
  args: readonly string[] = NO_CLOCK,
): Promise<void> {
  await world.agent.stop('SIGKILL');
  // The log goes on from one agent to the next.
  const before = world.agent.log().length;
  await world.startAgent(mode, args);
  await expectNothingChanged(() => world.agent.log().slice(before), mode);
}

/** The same of agents that a test starts by itself: `next` starts the one that comes after. */
export async function expectSoundAfter(agent: OwnAgent, mode: Mode, next: () => OwnAgent): Promise<void> {
  await agent.stop('SIGKILL');
  const after = next();
  try {
    await after.ready();
    await expectNothingChanged(() => after.text, mode);
  } finally {
    await after.stop('SIGKILL');
  }
}

async function expectNothingChanged(log: () => string, mode: Mode): Promise<void> {
  const started = () => logged(log(), 'the kernel holds the full state');
  // It says that it is ready before the line is in its log.
  await eventually(() => started().length).toBeGreaterThan(0);
  const [{ operations, refusals } = {}] = started();
  expect(refusals).toBe(0);
  // ebpf: the settings say which generation it is.
  expect(operations).toBeLessThanOrEqual(mode === 'ebpf' ? 1 : 0);
}
