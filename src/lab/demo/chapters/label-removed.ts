import { WEB_PORT, webSlices } from '../../examples.ts';
import { type Chapter, failures, PATIENCE_MS, verdict } from '../stage.ts';

const RATE = 400;
const POD = 'webpod3';
const HELD = 12;

/** The label goes and returns; the pod lives all the time. */
export const labelRemoved: Chapter = {
  title: 'The label is removed, and put back',
  about:
    `At L ${POD} loses the label app=web, so the EndpointSlice controller (here: the demo) takes it out of the ` +
    `service; at B it is back. The pod lives on: no request may fail, and ${HELD} open connections stay open.`,
  async run(stage) {
    const { lab, terminal } = stage;
    const without = lab.plan.pods.filter((pod) => stage.webPods.includes(pod.name) && pod.name !== POD);
    const hold = await lab.pod('net-pod').hold('tcp', stage.clusterIp(10), WEB_PORT, {
      connections: HELD,
      intervalMs: 50,
      durationMs: stage.seconds * 4000 + 20_000,
    });
    await hold.established;
    const { load, timeline } = await stage.loadWithTimeline(RATE);
    await stage.pause(0.3);
    stage.apply('web-endpoints', webSlices(lab, without));
    timeline.mark('L');
    await stage.pause(0.35);
    await stage.until(`new connections avoid ${POD}`, async () => !(await stage.answering()).has(POD));
    const between = await lab.pod('net-pod').call('tcp', stage.clusterIp(10), WEB_PORT, {
      count: 200,
      concurrency: 4,
      timeoutMs: PATIENCE_MS,
    });
    const returnedMs = stage.apply('web-endpoints', webSlices(lab));
    timeline.mark('B');
    await stage.pause(0.3);
    // A busy machine takes longer than that now and then; the picture is to show it in any case.
    await stage.until(`${POD} answers again`, async () => (await stage.answering()).has(POD));
    await stage.pause(0.1);
    const summary = await load.stop();
    const held = await hold.stop();
    terminal.lines(timeline.lines());
    const failed = summary.total - summary.outcomes.ok;
    const problems: string[] = [];
    if (failed) problems.push(`requests failed: ${failures(summary.outcomes)}`);
    if (between.pods[POD]) problems.push(`${POD} still got new connections`);
    if ((summary.lastMs[POD] ?? 0) < returnedMs) problems.push(`${POD} got no traffic after its return`);
    if (held.outcomes.ok !== HELD) problems.push(`${HELD - held.outcomes.ok} open connections broke`);
    return verdict(
      problems,
      `0 of ${summary.total} requests failed; ${held.outcomes.ok} of ${HELD} open connections stayed (${held.exchanges} exchanges)`,
    );
  },
};
