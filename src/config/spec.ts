/** The shape of a row of the option table (options.ts) and of the values that rows hold. */
import type { Address, Cidr } from '../model/records.ts';
import type { SocketAddress } from '../model/socket.ts';

/**
 * Which of this node's addresses NodePorts listen on. 'cidrs': those within one of the ranges of their family;
 * a family without a range listens on all its addresses, as in kube-proxy.
 */
export type NodePortAddresses =
  | { readonly by: 'primary' }
  | { readonly by: 'cidrs'; readonly cidrs: readonly Cidr[] };

export type OptionKind =
  | 'bool'
  | 'integer'
  | 'number'
  | 'text'
  /** Milliseconds. */
  | 'duration'
  | 'address'
  /** null: switched off. */
  | 'socket'
  | 'cidrs'
  | 'nodeports'
  /** Feature gates: name=bool pairs. */
  | 'gates'
  | 'choice'
  /** Only in the file, and of no meaning here: any value is taken as it stands. */
  | 'opaque';

export interface OptionSpec {
  /** The name in Config, unit last. */
  readonly key: string;
  /** The flag without its dashes; '' when there is none. */
  readonly flag: string;
  /** The path in the configuration file, parts joined by dots; '' when there is none. */
  readonly field: string;
  readonly kind: OptionKind;
  /** As it would be written on the command line. */
  readonly default: string;
  readonly help: string;
  /** What 'choice' allows; `as` maps kube-proxy's words to ours. */
  readonly choices?: readonly string[];
  readonly as?: Readonly<Record<string, string>>;
  readonly min?: number;
  readonly max?: number;
  /** For 'cidrs': at most one range a family. */
  readonly pair?: true;
  /**
   * 'kept': a zero in the file is a value. Otherwise it means "not given", because kube-proxy's file cannot
   * tell the two apart (fields that are no pointers in its Go type).
   */
  readonly zero?: 'kept';
  /**
   * works: does what it says. ignored: accepted, without meaning here, named in a warning when set.
   * alias: another name of the row `fold`. command: belongs to the command line alone.
   */
  readonly status: 'works' | 'ignored' | 'alias' | 'command';
  readonly fold?: string;
  /** Modes in which it means something; absent: all. */
  readonly modes?: readonly string[];
  /** Whether a running agent takes a changed file's value over. */
  readonly change: 'live' | 'restart';
  readonly group: OptionGroup;
}

export type OptionGroup =
  | 'Cluster state'
  | 'Mode'
  | 'Traffic'
  | 'Synchronisation'
  | 'Servers'
  | 'Metrics'
  | 'Kernel'
  | 'IPVS'
  | 'eBPF'
  | 'Logging'
  | 'Configuration'
  | 'Accepted for kube-proxy’s sake';

/** The TypeScript type that a row's value has. */
export type ValueOf<S extends OptionSpec> = S['kind'] extends 'bool'
  ? boolean
  : S['kind'] extends 'integer' | 'number' | 'duration'
    ? number
    : S['kind'] extends 'text'
      ? string
      : S['kind'] extends 'address'
        ? Address
        : S['kind'] extends 'socket'
          ? SocketAddress | null
          : S['kind'] extends 'cidrs'
            ? readonly Cidr[]
            : S['kind'] extends 'nodeports'
              ? NodePortAddresses
              : S['kind'] extends 'gates'
                ? Readonly<Record<string, boolean>>
                : S['kind'] extends 'choice'
                  ? ChoiceOf<S>
                  : unknown;

type ChoiceOf<S extends OptionSpec> = S extends { readonly choices: readonly (infer C)[] } ? C : string;
