import type { Family } from '../../../model/records.ts';
import { WEB_PORT, webService, webSlices } from '../../examples.ts';
import { addCounts, shareBars } from '../picture.ts';
import { type Chapter, PATIENCE_MS, type Stage, verdict } from '../stage.ts';

const CALLS = 1000;
const PORTION = 40;
/** A fair choice among three lies outside a third +- 8% once in 10,000,000 runs of 1,000 calls. */
const SHARE_ERROR_MAX = 0.08;

async function callsWithBars(stage: Stage, family: Family) {
  const { terminal } = stage;
  const pods: Record<string, number> = {};
  let done = 0;
  let failed = 0;
  while (done < CALLS) {
    const options = { count: PORTION, concurrency: 4, timeoutMs: PATIENCE_MS };
    const result = await stage.lab.pod('net-pod').call('tcp', stage.clusterIp(10, family), WEB_PORT, options);
    addCounts(pods, result.pods);
    done += result.total;
    failed += result.total - result.outcomes.ok;
    const head = `  net-pod -> ${stage.clusterIp(10, family)}:${WEB_PORT}   ${done} of ${CALLS} calls, ${failed} failed`;
    const lines = [head, ...shareBars(pods, stage.webPods, done)];
    if (done < CALLS) terminal.live(lines);
    else terminal.lines(lines);
    await stage.pause((0.35 * PORTION) / CALLS);
  }
  return { pods, failed };
}

/** The main job: a ClusterIP, spread over the pods of three nodes. */
export const clusterIp: Chapter = {
  title: 'A ClusterIP service',
  about:
    'Service web maps port 9000 to port 80 of webpod1-3 on the three workers. net-pod on the control plane ' +
    'calls it 1,000 times in each family; the pods answer with their names.',
  async run(stage) {
    stage.apply('web', [webService(stage.lab)]);
    stage.lab.manifests.write('web-endpoints', webSlices(stage.lab));
    stage.terminal.lines([
      '  (and web-endpoints.yaml: the EndpointSlices with the addresses of webpod1-3)',
      '',
    ]);
    await stage.until('an answer from the service', async () => {
      const asked = stage.lab.plan.families.map((family) =>
        stage.lab.pod('net-pod').ask('tcp', stage.clusterIp(10, family), WEB_PORT, { timeoutMs: 300 }),
      );
      return (await Promise.all(asked)).every((answer) => answer.outcome === 'ok');
    });
    const problems: string[] = [];
    const shares: string[] = [];
    for (const family of stage.lab.plan.families) {
      const { pods, failed } = await callsWithBars(stage, family);
      if (failed) problems.push(`IPv${family}: ${failed} calls failed`);
      for (const name of stage.webPods) {
        const share = (pods[name] ?? 0) / CALLS;
        if (Math.abs(share - 1 / stage.webPods.length) > SHARE_ERROR_MAX)
          problems.push(`IPv${family}: ${name} has ${share}`);
      }
      shares.push(`IPv${family} ${stage.webPods.map((name) => pods[name] ?? 0).join('/')}`);
    }
    return verdict(problems, `answers by pod: ${shares.join(', ')}; none failed`);
  },
};
