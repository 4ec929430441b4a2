/** The command line of the bench of modes. */
import { parseArgs } from 'node:util';
import type { Family } from '../../src/model/records.ts';
import { KUBE_PROXY_MODES } from './kube-proxy.ts';
import type { RunMode } from './lane-mode.ts';

export const USAGE = `triplane bench [options]: measures every mode that this kernel can run beside plain routing, in one
interleaved run, in network namespaces of its own. Needs root.

  --quick             five to ten minutes: 10 and 1,000 services, fewer rounds (the default takes one to two hours)
  --large             50,000 services as well
  --sizes N,N,...     these numbers of services (default 1,100,1000,10000)
  --modes M,M,...     these modes of nft, ipvs, ebpf, ebpf-tc (ebpf without its socket programs), ebpf-untracked
                      (ebpf on a node without connection tracking), and with --kube-proxy also
                      kube-proxy-nftables, kube-proxy-iptables (default: all)
  --kube-proxy PATH   this kube-proxy as well, in the same run; needs kube-apiserver and etcd in the folder that
                      KUBEBUILDER_ASSETS names, from which every control path is then fed
  --only PART,...     these parts of packet, data, control, rolling (default all)
  --endpoints N,N,... these numbers of endpoints a service in the control path (default 1,10,100)
  --family 4|6        one family (default both)
  --rounds N          rounds of the data path (default 15, with --quick 8)
  --calls N           calls of a kind in one round (default 200)
  --json FILE         the whole result for programs; written anew after each part, as is the page
  --html FILE         one page with plots, without references to anything outside it
  --compare A B       compares two JSON files and measures nothing; exit code 1: B is slower beyond noise, or has not
                      measured what it was asked for

Progress goes to standard error, the tables to standard output. Ctrl-C ends it and removes its namespaces.
`;

export interface BenchArguments {
  readonly sizes: readonly number[];
  readonly modes: readonly RunMode[];
  /** Its path; null: none is measured. */
  readonly kubeProxy: string | null;
  readonly parts: ReadonlySet<Part>;
  readonly families: readonly Family[];
  readonly rounds: number;
  readonly calls: number;
  readonly changes: number;
  readonly streamSeconds: number;
  readonly endpoints: readonly number[];
  readonly rollingEndpoints: number;
  /** Open connections at which packets are measured. */
  readonly packetFlows: readonly number[];
  readonly json: string | null;
  readonly html: string | null;
}

export type BenchCommand =
  | { readonly run: 'measure'; readonly with: BenchArguments }
  | { readonly run: 'compare'; readonly files: readonly [string, string] }
  | { readonly run: 'help' };

const OWN_MODES = ['nft', 'ipvs', 'ebpf', 'ebpf-tc', 'ebpf-untracked'] as const;
const PARTS = ['packet', 'data', 'control', 'rolling'] as const;
type Part = (typeof PARTS)[number];
const SIZE_MAX = 100_000;
const ENDPOINTS_MAX = 1000;

function listOf<T extends string>(flag: string, text: string, allowed: readonly T[]): T[] {
  const words = text.split(',').map((word) => {
    const found = allowed.find((one) => one === word);
    if (found === undefined) throw new RangeError(`--${flag}: "${word}" is none of ${allowed.join(', ')}`);
    return found;
  });
  return [...new Set(words)];
}

function positive(flag: string, text: string, most: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > most)
    throw new RangeError(`--${flag}: "${text}" is no whole number from 1 to ${most}`);
  return value;
}

function positives(flag: string, text: string, most: number): number[] {
  return [...new Set(text.split(',').map((one) => positive(flag, one, most)))];
}

/** Throws a RangeError of one line for what it does not understand. */
export function parseArguments(args: readonly string[]): BenchCommand {
  const { values, positionals } = parse(args);
  if (values.help) return { run: 'help' };
  if (values.compare) {
    if (positionals.length !== 2) throw new RangeError('--compare takes two JSON files');
    return { run: 'compare', files: positionals as [string, string] };
  }
  if (positionals.length > 0) throw new RangeError(`"${positionals[0]}" is not understood`);
  const quick = values.quick ?? false;
  const sizes = values.sizes
    ? positives('sizes', values.sizes, SIZE_MAX).sort((a, b) => a - b)
    : quick
      ? [10, 1000]
      : [1, 100, 1000, 10_000, ...(values.large ? [50_000] : [])];
  const kubeProxy = values['kube-proxy'] ?? null;
  const known: readonly RunMode[] = kubeProxy === null ? OWN_MODES : [...OWN_MODES, ...KUBE_PROXY_MODES];
  const family = values.family === undefined ? null : listOf('family', values.family, ['4', '6'])[0];
  return {
    run: 'measure',
    with: {
      sizes,
      modes: values.modes ? listOf('modes', values.modes, known) : known,
      kubeProxy,
      parts: new Set(values.only ? listOf('only', values.only, PARTS) : PARTS),
      families: family ? [Number(family) as Family] : [4, 6],
      rounds: positive('rounds', values.rounds ?? (quick ? '8' : '15'), 1000),
      calls: positive('calls', values.calls ?? '200', 5000),
      changes: quick ? 10 : 30,
      streamSeconds: quick ? 3 : 60,
      endpoints: values.endpoints
        ? positives('endpoints', values.endpoints, ENDPOINTS_MAX)
        : quick
          ? [10]
          : [1, 10, 100],
      packetFlows: quick ? [1, 1 << 10, 1 << 16] : [1, 1 << 10, 1 << 16, 1 << 20],
      rollingEndpoints: quick ? 300 : 1000,
      json: values.json ?? null,
      html: values.html ?? null,
    },
  };
}

/** More than that is no cluster: Kubernetes itself goes to 150,000 pods. */
const CLUSTER_ENDPOINTS_MAX = 200_000;

/**
 * The clusters of the control path: each size with each number of endpoints. What would have more endpoints than any
 * cluster is left out, but for the usual number (10, or the first that was asked for), which each size has.
 */
export function controlSizes({
  sizes,
  endpoints: counts,
}: Pick<BenchArguments, 'sizes' | 'endpoints'>): { services: number; endpoints: number }[] {
  const usual = counts.includes(10) ? 10 : counts[0]!;
  return [usual, ...counts.filter((count) => count !== usual)].flatMap((endpoints) =>
    sizes
      .filter((services) => endpoints === usual || services * endpoints <= CLUSTER_ENDPOINTS_MAX)
      .map((services) => ({ services, endpoints })),
  );
}

function parse(args: readonly string[]) {
  const text = { type: 'string' } as const;
  const flag = { type: 'boolean' } as const;
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        help: { ...flag, short: 'h' },
        quick: flag,
        large: flag,
        compare: flag,
        sizes: text,
        modes: text,
        'kube-proxy': text,
        only: text,
        family: text,
        endpoints: text,
        rounds: text,
        calls: text,
        json: text,
        html: text,
      },
    });
  } catch (error) {
    // Node goes on with how to pass it as no option, which the bench has no use for.
    throw new RangeError((error as Error).message.split(/\n|\. /, 1)[0]);
  }
}
