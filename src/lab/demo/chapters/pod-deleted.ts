import { WEB_PORT, webSlices } from '../../examples.ts';
import { type Chapter, failures, PATIENCE_MS, verdict } from '../stage.ts';

const RATE = 400;
const VICTIM = 'webpod2';
/** Far above what a change takes: what is later than this did not follow the change at all. */
const MOVE_MS_MAX = 1000;

/** A pod dies under load and comes back. */
export const podDeleted: Chapter = {
  title: 'A pod is deleted under load, and comes back',
  about:
    `net-pod opens ${RATE} connections a second. At D ${VICTIM} is killed without warning and its endpoint ` +
    'removed in the same moment (the demo does the EndpointSlice controller’s work); at R both return.',
  async run(stage) {
    const { lab, terminal } = stage;
    const without = lab.plan.pods.filter((pod) => stage.webPods.includes(pod.name) && pod.name !== VICTIM);
    const { load, timeline } = await stage.loadWithTimeline(RATE);
    await stage.pause(0.3);
    lab.pod(VICTIM).kill();
    const deletedMs = stage.apply('web-endpoints', webSlices(lab, without));
    timeline.mark('D');
    await stage.pause(0.4);
    await lab.pod(VICTIM).restart();
    const returnedMs = stage.apply('web-endpoints', webSlices(lab));
    timeline.mark('R');
    await stage.pause(0.3);
    // A busy machine takes longer than that now and then; the picture is to show it in any case.
    await stage.until(`${VICTIM} answers again`, async () => (await stage.answering()).has(VICTIM));
    await stage.pause(0.1);
    const summary = await load.stop();
    terminal.lines(timeline.lines());
    const failed = summary.total - summary.outcomes.ok;
    const lastFailedMs = Math.max(deletedMs, ...load.failures.map((failure) => failure.startRealMs));
    const movedMs = lastFailedMs - deletedMs;
    const check = await lab
      .pod('net-pod')
      .call('tcp', stage.clusterIp(10), WEB_PORT, { count: 200, concurrency: 4, timeoutMs: PATIENCE_MS });
    const problems: string[] = [];
    if (movedMs > MOVE_MS_MAX)
      problems.push(`requests failed until ${movedMs.toFixed(0)} ms after the deletion`);
    if ((summary.lastMs[VICTIM] ?? 0) < returnedMs)
      problems.push(`${VICTIM} got no traffic after its return`);
    if (!check.pods[VICTIM] || check.outcomes.ok !== 200) problems.push('the service is not whole again');
    return verdict(
      problems,
      `${failed} of ${summary.total} requests failed (${failures(summary.outcomes)}); the last one that failed began ${movedMs.toFixed(1)} ms after the deletion`,
    );
  },
};
