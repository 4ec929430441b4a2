import { WEB_PORT, webService } from '../../examples.ts';
import type { Place } from '../../place.ts';
import { table } from '../picture.ts';
import { type Chapter, PATIENCE_MS, PROBES, type Stage, verdict } from '../stage.ts';

const CALLS = 60;

function sources(stage: Stage): Place[] {
  const { lab } = stage;
  return [
    lab.pod('net-pod'),
    ...stage.webPods.map((name) => lab.pod(name)),
    lab.node(lab.plan.nodes[0]!.name),
  ];
}

async function answersBySource(
  stage: Stage,
  count = CALLS,
): Promise<{ name: string; pods: string[]; failed: number }[]> {
  const address = stage.clusterIp(10);
  return Promise.all(
    sources(stage).map(async (place) => {
      const result = await place.call('tcp', address, WEB_PORT, { count, timeoutMs: PATIENCE_MS });
      return {
        name: place.name,
        pods: Object.keys(result.pods).sort(),
        failed: result.total - result.outcomes.ok,
      };
    }),
  );
}

/** Each client stays with one pod. */
export const affinity: Chapter = {
  title: 'sessionAffinity: ClientIP',
  about:
    `Each client keeps the pod that answered it first. Five clients (pods, and the control plane itself) make ` +
    `${CALLS} calls each, before, with and after it.`,
  async run(stage) {
    const { lab, terminal } = stage;
    const before = await answersBySource(stage);
    stage.apply('web', [webService(lab, { affinitySeconds: 600 })]);
    // The clients are on four nodes, each with an agent of its own.
    const probe = () => answersBySource(stage, PROBES);
    await stage.until('affinity', async () => (await probe()).every(({ pods }) => pods.length === 1));
    const during = await answersBySource(stage);
    await stage.pause(0.2);
    stage.apply('web', [webService(lab)]);
    await stage.until('the end of affinity', async () =>
      (await probe()).every(({ pods }) => pods.length > 1),
    );
    const after = await answersBySource(stage);
    const rows = during.map((row, i) => [
      row.name,
      `${before[i]!.pods.length} pods`,
      row.pods.join(' '),
      `${after[i]!.pods.length} pods`,
    ]);
    terminal.lines(table([['client', 'before', 'with ClientIP', 'after'], ...rows]));
    await stage.pause(0.3);
    const problems = [
      ...during
        .filter((row) => row.pods.length !== 1)
        .map((row) => `${row.name} reached ${row.pods.join(' and ')}`),
      ...[...before, ...after]
        .filter((row) => row.pods.length < 2)
        .map((row) => `${row.name} was stuck without it`),
      ...[...before, ...during, ...after]
        .filter((row) => row.failed)
        .map((row) => `${row.name}: ${row.failed} failed`),
    ];
    return verdict(problems, `each of ${during.length} clients stayed with one pod for ${CALLS} calls`);
  },
};
