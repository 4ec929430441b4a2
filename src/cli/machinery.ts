/**
 * Where the commands meet what does the work: each entry loads its module when it is called for. null: not
 * part of this build, and the command says so.
 */
import type { Log, StartAgent } from '../agent/status.ts';
import type { Config } from '../config/config.ts';
import type { EndpointView, Mode, ServiceView } from '../dataplane/dataplane.ts';
import { TriplaneError } from '../model/errors.ts';
import type { Protocol } from '../model/records.ts';
import type { SocketAddress } from '../model/socket.ts';
import type { ProbeReport } from '../probe/report.ts';
import type { CleanedKubeProxy, Leaving } from './clean-kube-proxy.ts';

/** A connection through a service as the kernel holds it now: the row of `triplane get connections`. */
export interface ConnectionView {
  readonly protocol: Protocol;
  readonly client: SocketAddress;
  readonly frontend: SocketAddress;
  readonly backend: SocketAddress;
  /** The source that the backend sees when it is not the client; null: the client's own. */
  readonly masqueradedAs: SocketAddress | null;
  /** As the kernel names it, such as ESTABLISHED; '' where there is none (UDP). */
  readonly state: string;
  readonly expiresSeconds: number;
}

/** Reads what one mode holds in the kernel of this network namespace. */
export interface KernelReader {
  /** null: the kernel holds nothing of this mode. */
  read(): Promise<{
    readonly services: readonly ServiceView[];
    readonly endpoints: readonly EndpointView[];
  } | null>;
  connections(): Promise<readonly ConnectionView[]>;
}

/** Removes what one mode made and says what that was, one line each; empty: there was nothing. */
export type Cleaner = () => Promise<readonly string[]>;

type Load<T> = (() => Promise<T>) | null;

export interface Machinery {
  readonly startAgent: Load<StartAgent>;
  /** All that --init-only does. */
  readonly prepareNode: Load<(config: Config, log: Log) => void>;
  /** In the order in which they are asked. */
  readonly readers: Readonly<Record<Mode, Load<KernelReader>>>;
  readonly cleaners: Readonly<Record<Mode, Load<Cleaner>>>;
  /** What kube-proxy left behind, in any of its modes. */
  readonly cleanKubeProxy: Load<(leaving: Leaving) => Promise<CleanedKubeProxy>>;
  readonly probe: Load<() => Promise<ProbeReport>>;
  /** Gets the arguments after `bench`; resolves to the exit code. */
  readonly bench: Load<(args: readonly string[]) => Promise<number>>;
}

export const MACHINERY: Machinery = {
  startAgent: async () => (await import('../agent/start.ts')).startAgent,
  prepareNode: async () => (await import('../agent/prepare.ts')).initializeNode,
  readers: {
    nft: async () => (await import('./read-nft.ts')).NFT_READER,
    ipvs: async () => (await import('./read-ipvs.ts')).IPVS_READER,
    ebpf: async () => (await import('./read-ebpf.ts')).EBPF_READER,
  },
  cleaners: {
    nft: async () => (await import('./read-nft.ts')).cleanNft,
    ipvs: async () => (await import('./read-ipvs.ts')).cleanIpvs,
    ebpf: async () => (await import('./read-ebpf.ts')).cleanEbpf,
  },
  cleanKubeProxy: async () => (await import('./clean-kube-proxy.ts')).cleanKubeProxy,
  probe: async () => (await import('../probe/probe.ts')).probeKernel,
  bench: async () => (await import('./run-bench.ts')).runBench,
};

/** Loads, or throws TP_NO_FEATURE naming what is missing. */
export async function need<T>(load: Load<T>, what: string): Promise<T> {
  if (load === null) throw new TriplaneError('TP_NO_FEATURE', `this build has no ${what}`);
  return load();
}
