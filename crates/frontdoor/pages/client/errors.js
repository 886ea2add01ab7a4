/** The errors of the client library. `code` is for programs and stable; the message is for people. */

/** Anything that went wrong. */
export class HatcheryError extends Error {
  constructor(message, { code, cause, attempts = 1 }) {
    super(message, { cause });
    this.name = new.target.name;
    this.code = code;
    this.attempts = attempts;
    this.status = undefined;
    this.requestId = undefined;
    this.problem = undefined;
  }
}

/** The front door answered with an error; `problem` is its body. */
export class ProblemError extends HatcheryError {
  constructor(problem, { status, requestId, retryAfterMs, attempts }) {
    super(problem.detail || problem.title || `the front door answered ${status}`, {
      code: problem.code || `http-${status}`,
      attempts,
    });
    this.problem = problem;
    this.status = status;
    this.requestId = requestId;
    this.retryAfterMs = retryAfterMs;
  }
}

/** No answer: nothing listens there, the connection broke, or the browser did not allow the call. */
export class NetworkError extends HatcheryError {
  /** `stage`: how far the call had come, as the front door last said. */
  constructor(base, cause, attempts, stage) {
    const late = cause?.name === 'TimeoutError';
    const waited = {
      accepted: `${base.host} was still at work on the request`,
      queued: `the request was still in line at ${base.host}, at position ${stage?.position}`,
      starting: `the server was still starting on ${stage?.node}`,
    };
    const overdue = waited[stage?.state] ?? `${base.host} did not answer in time`;
    super(late ? overdue : `${base.host} cannot be reached`, { code: 'network', cause, attempts });
  }
}

/** The page's own `token` gave no usable token; `cause` is what it threw. */
export class TokenError extends HatcheryError {
  constructor(message, cause, attempts) {
    super(message, { code: 'no-token', cause, attempts });
  }
}

/** The live feed is refused: `code` is `unauthenticated`, or `forbidden` for the topics the caller may not follow. */
export class RefusedError extends HatcheryError {
  constructor({ code, message, topic }) {
    super(message || 'the front door does not accept the caller', { code });
    this.topic = topic;
  }
}

/**
 * The deadline has passed; `cause` is the outcome of the last attempt. `code` is the front door's where that attempt was
 * answered (`no-capacity`), and `deadline-exceeded` where it was not.
 */
export class DeadlineError extends HatcheryError {
  constructor(elapsedMs, cause, attempts) {
    const why = cause ? `: ${cause.message}` : '';
    const answered = cause instanceof ProblemError;
    super(`gave up after ${Math.round(elapsedMs / 100) / 10} s${why}`, {
      code: answered ? cause.code : 'deadline-exceeded',
      cause,
      attempts,
    });
    this.status = cause?.status;
    this.requestId = cause?.requestId;
    this.problem = cause?.problem;
  }
}
