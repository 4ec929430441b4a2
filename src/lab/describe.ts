/** Labs in words, for people: the topology, and the commands to poke at it. Pure. */
import { agentSocket } from './paths.ts';
import { type LabPlan, listed, type PerFamily, serviceAddress } from './plan.ts';

function both(addresses: PerFamily, plan: LabPlan): string {
  return listed(addresses, plan.families).join('  ');
}

/** The topology as a tree. */
export function describeTopology(plan: LabPlan): string[] {
  const wide = Math.max(...[...plan.nodes, ...plan.pods].map((place) => place.name.length)) + 2;
  const lines = [
    `fabric  ${both(plan.fabric.addresses, plan)}  (switch between the nodes, router to the client)`,
  ];
  for (const node of plan.nodes) {
    const zone = node.zone ? `  zone ${node.zone}` : '';
    const agent = node.agent === 'none' ? '  no agent' : '';
    lines.push(`├─ ${node.name.padEnd(wide)} ${both(node.addresses, plan)}${zone}${agent}`);
    const pods = plan.pods.filter((pod) => pod.node === node.name);
    pods.forEach((pod, i) => {
      const serves = pod.serve.length ? `  ${pod.serve.join(' ')}` : '';
      const host = pod.network === 'host' ? '  (host network)' : '';
      const branch = i === pods.length - 1 ? '└─' : '├─';
      lines.push(`│  ${branch} ${pod.name.padEnd(wide)} ${both(pod.addresses, plan)}${host}${serves}`);
    });
  }
  lines.push(`└─ ${'client'.padEnd(wide)} ${both(plan.client.addresses, plan)}  (outside the cluster)`);
  return lines;
}

/** What is longer does not push the comments of all others away. */
const ALIGNED_COLUMNS_MAX = 90;

export interface CommandOptions {
  /** 'services': agents run and the example services are there. */
  readonly has: 'services' | 'no services';
  /** The program's name as the person would type it. */
  readonly program: string;
}

/** Commands that work on a lab that stands. */
export function describeCommands(plan: LabPlan, { has, program }: CommandOptions): string[] {
  const lab = `${program} lab`;
  const name = plan.name === 'lab' ? '' : ` --name ${plan.name}`;
  const [first] = plan.pods.filter((pod) => pod.network === 'pod');
  const target = plan.pods.filter((pod) => pod.network === 'pod').at(-1);
  const [family = 4] = plan.families;
  const from = first?.name ?? plan.nodes[0]!.name;
  const worker = (plan.nodes.filter((node) => node.agent === 'run').at(-1) ?? plan.nodes[0]!).name;
  const lines: [string, string][] = [];
  if (target)
    lines.push([`${lab} call${name} ${from} tcp ${target.addresses[family]} 80`, 'one pod calls another']);
  if (has === 'services') {
    const node = plan.nodes[0]!.addresses[family]!;
    lines.push([
      `${lab} call${name} ${from} tcp ${serviceAddress(family, 10)} 9000 --count 1000`,
      'a ClusterIP',
    ]);
    lines.push([`${lab} call${name} client tcp ${node} 30900 --count 100`, 'a NodePort, from outside']);
    lines.push([`${lab} exec${name} ${worker} -- triplane get services`, 'what the kernel of a node holds']);
    const packet = `${plan.client.addresses[family]} ${serviceAddress(family, 10)}:9000`;
    const socket = `--admin-socket ${agentSocket(plan.name, worker)}`;
    lines.push([
      `${lab} exec${name} ${worker} -- triplane explain ${packet} ${socket}`,
      'what becomes of a packet there, and why',
    ]);
  }
  lines.push([`${lab} exec${name} ${worker} -- ip -brief address`, 'any command, inside a node or pod']);
  lines.push([`${lab} status${name}`, 'what runs']);
  lines.push([`${lab} down${name}`, 'removes all of it']);
  const wide = Math.max(...lines.map(([command]) => command.length).filter((n) => n <= ALIGNED_COLUMNS_MAX));
  return lines.map(([command, what]) => `${command.padEnd(wide)}  # ${what}`);
}
