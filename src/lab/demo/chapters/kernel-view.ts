import { triplaneProgram } from '../../paths.ts';
import { type Chapter, verdict } from '../stage.ts';

/** What `triplane get` must show of service web and its pods. */
export const kernelView: Chapter = {
  title: 'What the kernel holds',
  about:
    'triplane get reads services and endpoints back from the kernel of a node (here the first worker), ' +
    'not from what the agent believes. The columns are the same in every mode.',
  async run(stage) {
    const { lab, terminal } = stage;
    const node = lab.node((lab.plan.nodes[1] ?? lab.plan.nodes[0]!).name);
    const problems: string[] = [];
    for (const what of ['services', 'endpoints']) {
      const finished = await node.exec([process.execPath, triplaneProgram(), 'get', what]);
      terminal.lines([terminal.style('cyan', `  ${node.name}$ triplane get ${what}`)]);
      terminal.lines(
        `${finished.stdout}${finished.stderr}`
          .trimEnd()
          .split('\n')
          .map((line) => `  ${line}`),
      );
      terminal.lines(['']);
      if (finished.status !== 0) problems.push(`triplane get ${what} ended with status ${finished.status}`);
      const wanted =
        what === 'services'
          ? [stage.clusterIp(10), stage.clusterIp(11)]
          : stage.webPods.map((name) => lab.pod(name).addresses[stage.family]!);
      for (const address of wanted) {
        if (!finished.stdout.includes(address))
          problems.push(`triplane get ${what} does not show ${address}`);
      }
      await stage.pause(0.2);
    }
    return verdict(problems, `services and endpoints of ${node.name}, as its kernel has them`);
  },
};
