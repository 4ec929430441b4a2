/** Refusals of the API server, and what they mean for a reflector. */
import { isRaw, oneLine, type Raw } from '../decode/check.ts';

const RETRY_AFTER_MS_MAX = 300_000;

export class ApiError extends Error {
  /** The HTTP status, or the code of the Status object in an ERROR event. */
  readonly status: number;
  /** Status.reason, such as "Expired"; '' when the server gave none. */
  readonly reason: string;
  /** What the server asks us to wait; 0 when it does not. */
  readonly retryAfterMs: number;

  constructor(status: number, reason: string, message: string, retryAfterMs = 0) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }

  /** The resource version or the continue token is too old: only a new list helps. */
  get isExpired(): boolean {
    return this.status === 410 || this.reason === 'Expired' || this.reason === 'Gone';
  }

  /** We know of a later state than the server does: it was restored from a backup, or is behind. */
  get isAhead(): boolean {
    return /too large resource version/i.test(this.message);
  }

  /** The server does not understand the request: it has no watch-list. */
  get isInvalid(): boolean {
    return (
      this.status === 400 || this.status === 422 || this.reason === 'Invalid' || this.reason === 'BadRequest'
    );
  }

  get isAccess(): boolean {
    return this.status === 401 || this.status === 403;
  }
}

function retryAfterOf(status: Raw, header: string | undefined): number {
  const details = isRaw(status.details) ? status.details : {};
  // Only seconds: an HTTP date would trust a clock that is not ours.
  const seconds = Number(header ?? details.retryAfterSeconds ?? 0);
  return Number.isFinite(seconds) && seconds > 0 ? Math.min(seconds * 1_000, RETRY_AFTER_MS_MAX) : 0;
}

/** An error from a Status object (meta/v1) or from whatever a proxy answered in its place. */
export function apiErrorOf(httpStatus: number, body: unknown, retryAfter: string | undefined): ApiError {
  const status = isRaw(body) ? body : {};
  const code = typeof status.code === 'number' ? status.code : httpStatus;
  const reason = typeof status.reason === 'string' ? oneLine(status.reason.slice(0, 64)) : '';
  const said = typeof status.message === 'string' ? status.message : typeof body === 'string' ? body : '';
  const message = oneLine(`${code} ${reason} ${said.slice(0, 250)}`);
  return new ApiError(code, reason, message, retryAfterOf(status, retryAfter));
}
