/** Calls of the HTTP API: one front door after the other, with pauses, until an answer, a verdict, or the deadline. */

import { DeadlineError, HatcheryError, NetworkError, ProblemError, TokenError } from './errors.js';
import { isStream, lastEvent } from './progress.js';

/** The front door that this file came from. */
const HOME = new URL('.', import.meta.url);
/** Between attempts: at first, and at the most. */
const BACKOFF = { firstMs: 250, maxMs: 10_000 };

/**
 * Makes attempts until one succeeds, one fails for good, or the deadline passes. `judge` says of an error whether to make
 * another attempt (`again`) and, if it knows, after which pause (`pauseMs`).
 */
export async function persist({ bases, token, deadlineMs, attemptMs, signal, onRetry }, attempt, judge) {
  const began = Date.now();
  const until = began + deadlineMs;
  const late = (cause, attempts) => new DeadlineError(Date.now() - began, cause, attempts);
  let before;
  let refused = false;
  for (let attempts = 1; ; attempts += 1) {
    signal?.throwIfAborted();
    const at = bases[(attempts - 1) % bases.length];
    const limit = AbortSignal.timeout(Math.max(0, Math.min(attemptMs, until - Date.now())));
    let error;
    try {
      const ends = signal ? AbortSignal.any([signal, limit]) : limit;
      const shown = await tokenOf(token, ends, attempts);
      const answer = await attempt(at, { signal: ends, attempts, token: shown });
      return Object.defineProperty(answer, 'attempts', { value: attempts, enumerable: false });
    } catch (caught) {
      error = caught;
    }
    signal?.throwIfAborted();
    if (!(error instanceof HatcheryError)) throw error;
    const left = until - Date.now();
    // Tokens expire: a function that gives them is asked for one more.
    const renew = error.status === 401 && typeof token === 'function' && !refused;
    refused = error.status === 401;
    const { again, pauseMs } = renew ? { again: true, pauseMs: 0 } : judge(error);
    // An answer counts, however late. An earlier answer says more than that none came in what time was left.
    const verdict = error instanceof ProblemError;
    if (!again && (verdict || left > 0)) throw error;
    if (left <= 0) throw late(verdict ? error : (before ?? error), attempts);
    // Another front door need not be waited for, unless all have been asked.
    const round = Math.ceil(attempts / bases.length);
    const fresh = attempts < bases.length && !(error instanceof ProblemError);
    const pause = pauseMs ?? (fresh ? 0 : Math.max(error.retryAfterMs ?? 0, jittered(round, BACKOFF)));
    if (pause >= left) throw late(error, attempts);
    before = error;
    onRetry?.({ error, attempts, delayMs: pause });
    await sleep(pause, signal);
  }
}

/** `onProgress` is called with every stage of an answer that comes as a stream of events. */
export async function call(base, path, { attempts, token, headers, onProgress, ...init }) {
  let response;
  let text;
  let last;
  let thrown;
  let reached;
  try {
    response = await fetch(new URL(path, base), {
      ...init,
      headers: { ...headers, ...(token !== undefined && { authorization: `Bearer ${token}` }) },
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
    });
    if (onProgress && isStream(response)) {
      reached = { state: 'accepted' };
      last = await lastEvent(response, (stage) => {
        reached = stage;
        try {
          onProgress(stage);
        } catch (error) {
          thrown = error;
          throw error;
        }
      });
    } else {
      text = await response.text();
    }
  } catch (cause) {
    throw thrown ?? new NetworkError(base, cause, attempts, reached);
  }
  const requestId = response.headers.get('x-request-id') ?? undefined;
  if (last?.name === 'problem') {
    throw new ProblemError(last.data, { status: last.data.status, requestId, retryAfterMs: last.retryMs, attempts });
  }
  const body = last ? last.data : parsed(text);
  if (response.ok && body !== undefined) return Object.defineProperty(body, 'requestId', { value: requestId });
  const seconds = Number(response.headers.get('retry-after') ?? NaN);
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : undefined;
  throw new ProblemError(body ?? {}, { status: response.status, requestId, retryAfterMs, attempts });
}

/** The token to show, within the time that is left; never part of an error. */
export async function tokenOf(token, signal, attempts) {
  let given = token;
  if (typeof token === 'function') {
    try {
      given = await unless(signal, token());
    } catch (cause) {
      throw new TokenError(signal?.aborted ? 'there was no token in time' : 'there is no token', cause, attempts);
    }
  }
  if (given === undefined || given === null) return undefined;
  // A backend's answer may end with a line break.
  const text = typeof given === 'string' ? given.trim() : '';
  if (!/^[\x21-\x7e]+$/.test(text)) throw new TokenError('invalid token: expected a text without spaces', undefined, attempts);
  return text;
}

/** Waits no longer than the signal allows. */
function unless(signal, promise) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const stopped = () => reject(signal.reason);
    if (signal.aborted) stopped();
    signal.addEventListener('abort', stopped, { once: true });
    Promise.resolve(promise)
      .then(resolve, reject)
      .finally(() => signal.removeEventListener('abort', stopped));
  });
}

/** Whether the same call may succeed a moment later. Without `code`, a 502 or 504 comes from a proxy in between. */
export function worthRetrying(error) {
  if (error instanceof TokenError) return false;
  if (!(error instanceof ProblemError)) return true;
  // Too many in a minute passes with the minute; too many at once with the end of one, which may be far away.
  if (error.status === 429) return error.code !== 'quota-exceeded';
  // The farm has no such node; a mistyped label does not become right. Nodes that are down were waited for in line.
  if (error.code === 'no-matching-node') return false;
  return error.status === 503 || (error.problem.code === undefined && [502, 504].includes(error.status));
}

export function jittered(failures, { firstMs, maxMs }) {
  return Math.min(maxMs, firstMs * 2 ** Math.min(failures - 1, 20)) * (0.5 + Math.random() / 2);
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => (signal?.removeEventListener('abort', stopped), resolve()), ms);
    const stopped = () => (clearTimeout(timer), reject(signal.reason));
    signal?.addEventListener('abort', stopped, { once: true });
  });
}

export function basesOf(base) {
  const list = base === undefined ? [HOME] : [base].flat();
  if (list.length === 0) throw new TypeError('invalid base: expected at least one front door');
  // A base with a path is a directory, with or without its slash.
  return list.map((one) => new URL(String(one).replace(/\/*$/, '/'), globalThis.location?.href));
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

/** `crypto.randomUUID` is for secure pages only; farms on a company's network often have none. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
