/** `triplane run`: the node agent. */
import { readFile, writeFile } from 'node:fs/promises';
import process from 'node:process';
import { Command } from 'commander';
import type { RunningAgent } from '../agent/status.ts';
import { compareConfigs, loadConfig, type Resolved, takeOver } from '../config/config.ts';
import { addFlags, type FlagTexts } from '../config/flags.ts';
import { configurationYaml, flagValues, kubeProxyConfiguration } from '../config/write.ts';
import { checkAdminSocket } from '../observe/admin.ts';
import { createLogger, type Logger, levelOf } from '../observe/log.ts';
import { cleanup } from './cleanup.ts';
import { followFile } from './follow.ts';
import type { Io } from './io.ts';
import { MACHINERY, type Machinery, need } from './machinery.ts';
import { type Servers, startServers } from './servers.ts';
import { version } from './version.ts';

const NOTES = `
Lists are comma-separated; durations are Go's (30s, 1h2m3.5s). kube-proxy's other flags are accepted, with a
warning, where they have no meaning here: docs/configuration.md has them all.`;

export function runCommand(io: Io, machinery: Machinery = MACHINERY): Command {
  const command = new Command('run')
    .description('the node agent: keeps the kernel of this node at what the cluster asks for')
    .usage('[flags]')
    .version(`triplane ${version()}`, '--version', 'print the version')
    .addHelpText('after', NOTES);
  const flags = addFlags(command);
  return command.action(async () => {
    const resolved = await loadConfig(flags);
    const { settings, warnings } = resolved;
    const writeTo = settings.get('writeConfigTo')!.value as string;
    if (writeTo !== '') {
      for (const warning of warnings) io.err(`warning: ${warning}\n`);
      return writeConfig(io, writeTo, configurationYaml(settings));
    }
    if (settings.get('cleanup')!.value === true) return cleanup(io, machinery);
    await runAgent(flags, resolved, machinery);
  });
}

async function writeConfig(io: Io, path: string, text: string): Promise<void> {
  if (path === '-') io.out(text);
  else await writeFile(path, text);
}

/** Until the agent ends, a signal comes, or a server fails for good. */
async function runAgent(flags: FlagTexts, resolved: Resolved, machinery: Machinery): Promise<void> {
  const { config } = resolved;
  const log = createLogger({ verbosity: config.verbosity, format: config.loggingFormat });
  for (const warning of resolved.warnings) log.warn({}, warning);
  log.info({ version: version(), node: process.version, mode: config.proxyMode }, 'starting');
  if (config.initOnly) return (await need(machinery.prepareNode, 'agent'))(config, log);
  const startAgent = await need(machinery.startAgent, 'agent');
  // Before the agent touches anything; whether somebody answers there is asked when it is opened.
  if (config.adminSocket !== '') checkAdminSocket(config.adminSocket);
  const signalled = firstSignal();
  const agent = await startAgent(config, log);
  const live = new LiveConfig(flags, resolved, agent, log);
  let servers: Servers | undefined;
  try {
    servers = await startServers({
      agent,
      log,
      version: version(),
      config: () => live.resolved.config,
      configuration: () => kubeProxyConfiguration(live.resolved.settings),
      flags: () => flagValues(live.resolved.settings),
      onVerbosity: (verbosity) => {
        log.level = levelOf(verbosity);
      },
    });
    await live.follow();
    const signal = await Promise.race([agent.ended.then(() => ''), signalled.signal, servers.failed]);
    if (signal !== '') log.info({ signal }, 'ending; the kernel keeps what it has, traffic goes on');
  } finally {
    signalled.forget();
    live.close();
    await agent.stop();
    await servers?.close();
  }
}

function firstSignal(): { signal: Promise<string>; forget: () => void } {
  let forget = (): void => {};
  const signal = new Promise<string>((resolve) => {
    process.on('SIGTERM', resolve).on('SIGINT', resolve);
    forget = () => process.off('SIGTERM', resolve).off('SIGINT', resolve);
  });
  return { signal, forget };
}

/** The configuration while it is followed: --config's file, and SIGHUP to look at once. */
class LiveConfig {
  resolved: Resolved;
  readonly #flags: FlagTexts;
  readonly #agent: RunningAgent;
  readonly #log: Logger;
  #end: () => void = () => {};

  constructor(flags: FlagTexts, resolved: Resolved, agent: RunningAgent, log: Logger) {
    this.#flags = flags;
    this.resolved = resolved;
    this.#agent = agent;
    this.#log = log;
  }

  async follow(): Promise<void> {
    const path = this.resolved.config.configFile;
    if (path === '') return;
    const reload = (): void => void this.#reload();
    const unfollow = followFile(path, await readFile(path, 'utf8'), reload);
    process.on('SIGHUP', reload);
    this.#end = () => {
      unfollow();
      process.off('SIGHUP', reload);
    };
  }

  close(): void {
    this.#end();
  }

  async #reload(): Promise<void> {
    try {
      const next = await loadConfig(this.#flags);
      const { live, restart } = compareConfigs(this.resolved.settings, next.settings);
      for (const warning of next.warnings) this.#log.warn({}, warning);
      if (restart.length > 0)
        this.#log.warn({ fields: restart }, 'changed in the configuration file, and needs a restart');
      this.resolved = takeOver(this.resolved, next);
      if (live.length === 0) return;
      this.#log.info({ fields: live }, 'changed in the configuration file: taking it over');
      this.#log.level = levelOf(this.resolved.config.verbosity);
      await this.#agent.reconfigure(this.resolved.config);
    } catch (error) {
      this.#log.error(
        { err: error },
        'the changed configuration file cannot be used: everything stays as it was',
      );
    }
  }
}
