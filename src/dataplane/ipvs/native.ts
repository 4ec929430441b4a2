/** The addon's IPVS part, typed. Arguments are made by packed-ipvs.ts and service-device.ts; C++ asserts them. */
import { spawnSync } from 'node:child_process';
import { TriplaneError } from '../../model/errors.ts';
import { loadNative } from '../../node/native.ts';

export interface IpvsRefusal {
  /** Which operation of the commit. */
  readonly index: number;
  readonly errno: string;
}

export interface IpvsSocket {
  /** Sends packed operations (packed-ipvs.ts); each is taken or refused by itself. */
  commit(operations: Buffer): Promise<readonly IpvsRefusal[]>;
  /**
   * Firewall-mark services with their destinations, packed: all, or those among `names` (writeServiceName()) that are
   * there; at least one.
   */
  dump(names?: Buffer): Promise<Buffer>;
  /** Seconds of TCP, TCP after a FIN, UDP. */
  timeouts(): [number, number, number];
  /** Zeros leave a value as it is. */
  setTimeouts(tcp: number, tcpFin: number, udp: number): void;
  close(): void;
}

interface IpvsNative {
  IpvsSocket: new (netns: string) => IpvsSocket;
  ipvsLink(netns: string, name: string, kind: string): string;
  ipvsUnlink(netns: string, name: string): string;
  /**
   * `bytes`: addresses of `size` bytes each. `op` 1: they become local by way of the link; 2: no longer, whether by a route or
   * as the link's. For each '' or the errno; and the sources that the node's own sockets have toward those that became local,
   * each once.
   */
  ipvsAddresses(
    netns: string,
    link: number,
    op: number,
    size: 4 | 16,
    bytes: Buffer,
  ): readonly [errnos: readonly string[], sources: readonly Buffer[]];
  netnsSysctl(netns: string, name: string, value?: string): string | null;
}

const MODPROBE_MS = 10_000;

export function ipvsNative(): IpvsNative {
  return loadNative() as unknown as IpvsNative;
}

/** Kernels do not load the module by themselves when its family is asked for. */
function openOrLoad(netns: string): IpvsSocket {
  const { IpvsSocket } = ipvsNative();
  try {
    return new IpvsSocket(netns);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOENT') throw error;
    spawnSync('modprobe', ['--quiet', 'ip_vs'], { stdio: 'ignore', timeout: MODPROBE_MS });
    return new IpvsSocket(netns);
  }
}

/** Throws TP_NO_FEATURE where the kernel has no IPVS, TP_NO_PRIVILEGE where it may not be used. */
export function openIpvsSocket(netns: string): IpvsSocket {
  try {
    const socket = openOrLoad(netns);
    // The family may be asked for by everybody; its commands only by root of the machine.
    socket.timeouts();
    return socket;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'ENOENT' || code === 'EPROTONOSUPPORT') {
      throw new TriplaneError(
        'TP_NO_FEATURE',
        'this kernel has no IPVS (module ip_vs): load it or choose another mode',
        { cause: error },
      );
    }
    if (code === 'EPERM' || code === 'EACCES') {
      throw new TriplaneError(
        'TP_NO_PRIVILEGE',
        "IPVS may not be used by this process: it takes CAP_NET_ADMIN of the machine's root, not of a user namespace",
        { cause: error },
      );
    }
    throw error;
  }
}
