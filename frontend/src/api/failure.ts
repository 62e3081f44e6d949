//! What a request can fail with: the server's Problem, or no answer at all. Pages decide by `code`, never by text.
import type { Problem } from './generated'

export class Failure extends Error {
  override readonly name = 'Failure'
  constructor(
    /** Stable, like "schedule.time_invalid"; "unreachable" when no answer came. */
    readonly code: string,
    /** The server's sentence, English; shown only where the catalogue has none for the code. */
    readonly detail: string,
    /** HTTP status; 0 when no answer came. */
    readonly status: number,
    readonly field: string | undefined,
    readonly requestId: string | undefined,
    /** Seconds. */
    readonly retryAfter: number | undefined,
  ) {
    super(`${code}: ${detail}`)
  }
}

function isProblem(value: unknown): value is Problem {
  return typeof value === 'object' && value !== null && 'code' in value && typeof value.code === 'string'
}

/** Makes one Failure of whatever a request ended with. */
export function toFailure(error: unknown, response?: Response): Failure {
  if (error instanceof Failure) return error
  const status = response?.status ?? 0
  const wait = Number(response?.headers.get('Retry-After') ?? NaN)
  const retryAfter = Number.isFinite(wait) ? wait : undefined
  if (isProblem(error)) return new Failure(error.code, error.detail, status, error.field, error.request_id, retryAfter)
  if (response) return new Failure(status >= 500 ? 'unavailable' : 'unexpected', `HTTP ${status}`, status, undefined, undefined, retryAfter)
  return new Failure('unreachable', String(error), 0, undefined, undefined, undefined)
}

/** Whether trying the same request again by itself makes sense. */
export function isPassing(failure: Failure): boolean {
  return failure.status === 0 || failure.status >= 500
}
