import { WEB_NODE_PORT, webNodePort } from '../../examples.ts';
import type { LabNode } from '../../members.ts';
import { listed } from '../../plan.ts';
import type { CallResult } from '../../results.ts';
import { table } from '../picture.ts';
import { type Chapter, type Stage, verdict } from '../stage.ts';

const CALLS = 60;
/** Silence is what is promised where a node has no pod of its own: a few calls are enough to see it. */
const SILENT_CALLS = 5;

interface Row {
  readonly node: LabNode;
  readonly address: string;
  readonly result: CallResult;
}

/** Every address of every node. */
function targetsOf({ lab }: Stage): { node: LabNode; address: string }[] {
  return [...lab.nodes.values()].flatMap((node) =>
    listed(node.addresses, lab.plan.families).map((address) => ({ node, address })),
  );
}

/** The outside client calls the NodePort on every address of every node. */
async function throughEveryNode(stage: Stage, countOf: (node: LabNode) => number): Promise<Row[]> {
  return Promise.all(
    targetsOf(stage).map(async ({ node, address }) => {
      const count = countOf(node);
      const options = { count, concurrency: count === SILENT_CALLS ? SILENT_CALLS : 2, timeoutMs: 1000 };
      return { node, address, result: await stage.lab.client.call('tcp', address, WEB_NODE_PORT, options) };
    }),
  );
}

function show(stage: Stage, rows: readonly Row[]): void {
  const cells = rows.map(({ node, address, result }) => [
    `${node.name} ${address}`,
    result.outcomes.ok ? Object.keys(result.pods).sort().join(' ') : '(silence)',
    Object.keys(result.peers).join(' ') || '-',
  ]);
  stage.terminal.lines(table([['through', 'answered', 'source that the pods saw'], ...cells]));
}

/** Pods of the service on this node. */
function localPods(stage: Stage, node: LabNode): string[] {
  return stage.lab.plan.pods
    .filter((pod) => pod.node === node.name && stage.webPods.includes(pod.name))
    .map((pod) => pod.name);
}

/** Every node forwards to every pod, and replaces the client's address by its own. */
export const nodePortCluster: Chapter = {
  title: 'A NodePort service, from outside',
  about:
    `Port ${WEB_NODE_PORT} of every node leads to every pod. The client is outside the cluster; ` +
    'with externalTrafficPolicy: Cluster the pods see the node that forwarded, so that answers come back through it.',
  async run(stage) {
    const { lab } = stage;
    stage.apply('web', [webNodePort(lab, 'Cluster')]);
    await stage.until('the NodePort on every node', async () => {
      const asked = targetsOf(stage).map(({ address }) =>
        lab.client.ask('tcp', address, WEB_NODE_PORT, { timeoutMs: 300 }),
      );
      return (await Promise.all(asked)).every((answer) => answer.outcome === 'ok');
    });
    const rows = await throughEveryNode(stage, () => CALLS);
    show(stage, rows);
    await stage.pause(0.4);
    const problems = rows.flatMap(({ address, result }) => {
      const wrong = Object.keys(result.peers).filter((peer) => peer !== address);
      return [
        ...(result.outcomes.ok === CALLS ? [] : [`${address}: ${CALLS - result.outcomes.ok} failed`]),
        ...(Object.keys(result.pods).length === stage.webPods.length
          ? []
          : [`${address} did not reach every pod`]),
        ...(wrong.length ? [`${address}: pods saw ${wrong.join(' ')}`] : []),
      ];
    });
    return verdict(
      problems,
      `${rows.length} node addresses, each to all ${stage.webPods.length} pods, masqueraded; none failed`,
    );
  },
};

/** Nodes forward only to their own pods, and leave the client's address alone. */
export const nodePortLocal: Chapter = {
  title: 'The same with externalTrafficPolicy: Local',
  about:
    'Each node forwards only to pods of its own, which now see the client’s own address. ' +
    'A node without such a pod stays silent, so that a load balancer’s health check leaves it out.',
  async run(stage) {
    const { lab } = stage;
    stage.apply('web', [webNodePort(lab, 'Local')]);
    const own = lab.client.addresses;
    await stage.until('the Local policy on every node', async () => {
      const asked = targetsOf(stage).map(async ({ node, address }) => {
        const answer = await lab.client.ask('tcp', address, WEB_NODE_PORT, { timeoutMs: 200 });
        if (!localPods(stage, node).length) return answer.outcome === 'timeout';
        return answer.peer === own[address.includes(':') ? 6 : 4];
      });
      return (await Promise.all(asked)).every(Boolean);
    });
    const rows = await throughEveryNode(stage, (node) =>
      localPods(stage, node).length ? CALLS : SILENT_CALLS,
    );
    show(stage, rows);
    await stage.pause(0.3);
    const problems = rows.flatMap(({ node, address, result }) => {
      const local = localPods(stage, node);
      if (!local.length) return result.outcomes.timeout === result.total ? [] : [`${address} was not silent`];
      const client = own[address.includes(':') ? 6 : 4];
      return [
        ...(result.outcomes.ok === CALLS ? [] : [`${address}: ${CALLS - result.outcomes.ok} failed`]),
        ...(Object.keys(result.pods).every((pod) => local.includes(pod)) ? [] : [`${address} left its node`]),
        ...(Object.keys(result.peers).join() === client
          ? []
          : [`${address}: pods saw ${Object.keys(result.peers).join(' ')}`]),
      ];
    });
    return verdict(
      problems,
      `pods saw ${listed(own, lab.plan.families).join(' and ')}; nodes without a pod were silent`,
    );
  },
};
