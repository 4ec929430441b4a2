import { UDP_PORT, udpObjects } from '../../examples.ts';
import { shareBars } from '../picture.ts';
import { type Chapter, verdict } from '../stage.ts';

const CALLS = 300;

/** A UDP service in every family. */
export const udp: Chapter = {
  title: 'A UDP service',
  about:
    `Service dns maps UDP port ${UDP_PORT} to UDP port 80 of the same pods. net-pod sends ${CALLS} datagrams in each ` +
    'family, each from a socket of its own, and takes answers only from the address it asked.',
  async run(stage) {
    const { lab, terminal } = stage;
    stage.apply('dns', udpObjects(lab));
    await stage.until('an answer from the service', async () => {
      const asked = lab.plan.families.map((family) =>
        lab.pod('net-pod').ask('udp', stage.clusterIp(11, family), UDP_PORT, { timeoutMs: 300 }),
      );
      return (await Promise.all(asked)).every((answer) => answer.outcome === 'ok');
    });
    const problems: string[] = [];
    const shares: string[] = [];
    for (const family of lab.plan.families) {
      const options = { count: CALLS, concurrency: 4, socket: 'unconnected' } as const;
      const result = await lab.pod('net-pod').call('udp', stage.clusterIp(11, family), UDP_PORT, options);
      terminal.lines([
        `  net-pod -> ${stage.clusterIp(11, family)}:${UDP_PORT}/UDP`,
        ...shareBars(result.pods, stage.webPods, result.total),
      ]);
      if (result.outcomes.ok !== CALLS)
        problems.push(`IPv${family}: ${CALLS - result.outcomes.ok} datagrams failed`);
      if (Object.keys(result.pods).length !== stage.webPods.length)
        problems.push(`IPv${family}: not every pod answered`);
      shares.push(`IPv${family} ${stage.webPods.map((name) => result.pods[name] ?? 0).join('/')}`);
      await stage.pause(0.2);
    }
    return verdict(problems, `answers by pod: ${shares.join(', ')}; none failed`);
  },
};
