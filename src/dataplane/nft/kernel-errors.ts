/** What the kernel's refusals of nftables requests mean. */
import { TriplaneError } from '../../model/errors.ts';

/** Somebody took the table, or a part of it, between two looks. */
export function goneMeanwhile(error: unknown): string[] {
  if ((error as { code?: string }).code === 'ENOENT') return ['the table went while it was looked at'];
  throw error;
}

export function asTriplaneError(error: unknown): unknown {
  const code = (error as { code?: string }).code;
  if (code === 'EPERM' || code === 'EACCES') {
    return new TriplaneError(
      'TP_NO_PRIVILEGE',
      'nftables may not be used by this process: run as root or with CAP_NET_ADMIN',
      { cause: error },
    );
  }
  if (code === 'EPROTONOSUPPORT' || code === 'EOPNOTSUPP') {
    return new TriplaneError(
      'TP_NO_FEATURE',
      'this kernel has no nftables (module nf_tables): load it or choose another mode',
      { cause: error },
    );
  }
  return error;
}
