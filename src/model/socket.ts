/** An address with a port, and how it is written. */
import type { Address } from './records.ts';

/** Where a server listens. `0.0.0.0` and `::` both mean every address of both families, as in kube-proxy. */
export interface SocketAddress {
  readonly address: Address;
  readonly port: number;
}

/** `10.0.0.1:80`, `[fd00::1]:80`. */
export function formatSocket({ address, port }: SocketAddress): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
