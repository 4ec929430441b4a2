/** The times and sizes of a reflector; the defaults are client-go's where it has one. */
export interface ReflectorOptions {
  /** Objects a page. Default 500. */
  readonly pageSize?: number;
  /** A watch is asked to last between once and twice this. Default 300,000. */
  readonly watchTimeoutMs?: number;
  /** How much longer a watch may last before it counts as dead. Default 30,000. */
  readonly watchGraceMs?: number;
  /** Silence that ends a list, and a watch before its first byte. Default 60,000. */
  readonly requestTimeoutMs?: number;
  /** No silence shorter than this ends a watch. Default 180,000. */
  readonly silenceMinMs?: number;
  /** First and longest step of the back-off. Defaults 800 and 30,000. */
  readonly backoffMinMs?: number;
  readonly backoffMaxMs?: number;
  /** How often to look whether the server has got an optional resource. Default 300,000. */
  readonly absentRetryMs?: number;
  /** Between two tries to send an event. Default 10,000. */
  readonly eventRetryMs?: number;
  /** Bytes of one object. Default 64 MiB. */
  readonly objectBytesMax?: number;
}

export type ReflectorLimits = Required<ReflectorOptions>;

export function limitsOf(options: ReflectorOptions): ReflectorLimits {
  return {
    pageSize: options.pageSize ?? 500,
    watchTimeoutMs: options.watchTimeoutMs ?? 300_000,
    watchGraceMs: options.watchGraceMs ?? 30_000,
    requestTimeoutMs: options.requestTimeoutMs ?? 60_000,
    silenceMinMs: options.silenceMinMs ?? 180_000,
    backoffMinMs: options.backoffMinMs ?? 800,
    backoffMaxMs: options.backoffMaxMs ?? 30_000,
    absentRetryMs: options.absentRetryMs ?? 300_000,
    eventRetryMs: options.eventRetryMs ?? 10_000,
    objectBytesMax: options.objectBytesMax ?? 64 * 1024 * 1024,
  };
}
