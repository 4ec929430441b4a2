/** Puts an agent together for this machine: the one place where the agent meets sockets, files and the kernel. */
import os from 'node:os';
import path from 'node:path';
import type { Config } from '../config/config.ts';
import type { StaleFlow } from '../model/conntrack.ts';
import type { Address, Family } from '../model/records.ts';
import { AddressBook } from '../node/addresses.ts';
import { deleteFlows, type FlowMatch, listFlows } from '../node/conntrack.ts';
import { takeLock } from '../node/lock.ts';
import { requireCapability } from '../node/privilege.ts';
import { FEATURES, SWITCH, switchedOff } from '../node/switches.ts';
import { probeForAuto } from '../probe/probe.ts';
import { createKubernetesSource } from '../source/kubernetes/source.ts';
import { createManifestSource } from '../source/manifests/source.ts';
import type { Source } from '../source/source.ts';
import { Agent, type AgentParts } from './agent.ts';
import type { MachineAddresses } from './facts.ts';
import { explainMissing, lacking } from './missing.ts';
import { prepareNode, settingsChanged } from './prepare.ts';
import type { Log, RunningAgent, StartAgent } from './status.ts';

/** One agent serves a network namespace, whatever its mode. */
const LOCK = 'agent';

export const startAgent: StartAgent = async (config, log) => {
  requireCapability('CAP_NET_ADMIN', 'program the network of this node');
  const nodeName = nodeNameOf(config);
  const lock = await takeLock(LOCK);
  let book: AddressBook | null = null;
  try {
    const addresses = new AddressBook();
    book = addresses;
    const source = sourceOf(config, nodeName);
    const machine = new Machine(addresses);
    await machine.refresh();
    const ending = new Ending();
    const auto = config.proxyMode === 'auto' ? (await probeForAuto()).auto : null;
    const parts: AgentParts = {
      ...{ config, nodeName, log, source, clearFlows, auto },
      machine: () => machine.current,
      flows: (protocol) => listFlows(protocol === 'TCP' ? { protocol, only: 'unanswered' } : { protocol }),
      onHopeless: (error) => void explainMissing(error, agent.mode().mode).then(ending.fail, ending.fail),
    };
    const agent = await openAgent(parts);
    watchStart(agent, ending);
    machine.onChange(() => agent.machineChanged());
    await agent.start();
    // Only now that it can work here: an agent that is refused (a path, a mode) leaves the node as it was.
    prepareNode(config, log);
    agent.warm();
    announceStart(source, nodeName);
    const release = async () => {
      addresses.close();
      await lock.release();
    };
    return running({ agent, source, ending, config, log, release });
  } catch (error) {
    book?.close();
    await lock.release();
    throw error;
  }
};

/** The event by which runbooks tell that a node's proxy was restarted, word for word kube-proxy's. */
function announceStart(source: Source, nodeName: string): void {
  source.announce({
    about: { kind: 'Node', name: nodeName },
    ...{ type: 'Normal', reason: 'Starting', action: 'StartKubeProxy', note: '' },
  });
}

/** A mode that cannot run is worth a look at the kernel, to say what it lacks and which ones could. */
async function openAgent(parts: AgentParts): Promise<Agent> {
  for (const feature of switchedOff())
    parts.log.warn({ feature }, `${FEATURES[feature]}: switched off by ${SWITCH}`);
  try {
    return new Agent(parts);
  } catch (error) {
    throw await explainMissing(error, parts.auto?.mode || parts.config.proxyMode);
  }
}

/** A first state that the kernel refuses is tried again; but not where it lacks what the mode needs. */
function watchStart(agent: Agent, ending: Ending): void {
  const end = agent.events.onSync.on(({ ok, mode }) => {
    end();
    if (!ok && !agent.synced())
      lacking(mode).then(
        (error) => error && ending.fail(error),
        () => {},
      );
  });
}

/** How the agent ends: a promise that others settle. */
class Ending {
  end: () => void = () => {};
  fail: (error: Error) => void = () => {};
  readonly ended = new Promise<void>((resolve, reject) => {
    this.end = resolve;
    this.fail = reject;
  });

  constructor() {
    // It may fail before anybody listens.
    this.ended.catch(() => {});
  }
}

interface RunningParts {
  readonly agent: Agent;
  readonly source: Source;
  readonly ending: Ending;
  readonly config: Config;
  readonly log: Log;
  readonly release: () => Promise<void>;
}

function running({ agent, source, ending, config, log, release }: RunningParts): RunningAgent {
  let closing: Promise<void> | null = null;
  let inForce = config;
  const close = async () => {
    try {
      await agent.stop();
    } finally {
      await release();
    }
  };
  return {
    status: agent,
    control: agent,
    ended: ending.ended,
    announce: (event) => source.announce(event),
    reconfigure: async (next) => {
      if (settingsChanged(inForce, next)) prepareNode(next, log);
      inForce = next;
      agent.reconfigure(next);
    },
    stop: () => {
      closing ??= close().finally(ending.end);
      return closing;
    },
  };
}

function nodeNameOf(config: Config): string {
  // kube-proxy's rule (nodeutil.GetHostname): trimmed, lower case.
  return (config.hostnameOverride === '' ? os.hostname() : config.hostnameOverride).trim().toLowerCase();
}

/** Beside the admin socket: in memory, as the rules in the kernel are. */
function copiesOf({ adminSocket }: Config): string {
  return adminSocket === '' ? '' : path.join(path.dirname(adminSocket), 'manifests');
}

function sourceOf(config: Config, nodeName: string): Source {
  if (config.manifests !== '') return createManifestSource(config.manifests, { copies: copiesOf(config) });
  const { kubeconfig: kubeconfigPath, master, socketLb } = config;
  // Whatever the mode: it may change to one with socket programs, and then they are to be known.
  return createKubernetesSource({
    ...{ kubeconfigPath, master, nodeName },
    pods: socketLb === 'off' ? 'none' : 'labelled',
  });
}

/** The machine's addresses with what needs a route look-up, kept ready for synchronous readers. */
class Machine {
  current: MachineAddresses;
  private readonly book: AddressBook;

  constructor(book: AddressBook) {
    this.book = book;
    this.current = { all: book.addresses(), defaults: { 4: null, 6: null } };
  }

  async refresh(): Promise<void> {
    const defaults: Record<Family, Address | null> = {
      4: await this.book.defaultAddress(4).catch(() => null),
      6: await this.book.defaultAddress(6).catch(() => null),
    };
    this.current = { all: this.book.addresses(), defaults };
  }

  onChange(listener: () => void): void {
    this.book.onChange(() => {
      this.refresh().then(listener, listener);
    });
  }
}

async function clearFlows(_family: Family, flows: readonly StaleFlow[]): Promise<number> {
  const matches = flows.map(
    ({ protocol, address, port, backend, backendPort }): FlowMatch => ({
      protocol,
      ...(protocol === 'TCP' ? { only: 'unanswered' as const } : {}),
      destination: { address, port },
      answeredBy: backend === null ? 'untranslated' : { address: backend, port: backendPort },
    }),
  );
  return (await deleteFlows(matches)).deleted;
}
