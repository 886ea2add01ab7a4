/** Starting and stopping spawns. */

import { basesOf, call, persist, uuid, worthRetrying } from './call.js';
import { ProblemError, TokenError } from './errors.js';
import { WATCHING } from './progress.js';

const SPAWN_MS = 60_000;
const STOP_MS = 30_000;
/** A request that waited in line in vain keeps its place for seconds: it comes again after this pause. */
const COME_BACK_MS = 2_000;

/**
 * Starts a stream cache server; resolves once a viewer can connect to its `endpoint`.
 *
 * An attempt that failed on its way (no connection, a full farm, too many spawns in a minute) is made again until the
 * deadline. All attempts carry one idempotency key, so no second spawn starts, and a request that waits in line keeps its place.
 * What another attempt cannot change (`invalid-request`, `no-matching-node`, `spawn-failed`) is thrown at once.
 *
 * While the registry is away, front doors refuse keys. Then one attempt is made without a key. It is not repeated if its
 * outcome stays unknown.
 *
 * With `onProgress` the call says how far it has come, where the front door can: its position in the line, and the node on which it starts.
 *
 * @param {import('./client.d.ts').SpawnOptions} [options]
 * @returns {Promise<import('./client.d.ts').SpawnAnswer>}
 */
export async function spawn(options = {}) {
  const { base, token, deadlineMs, attemptTimeoutMs, signal, idempotencyKey, onRetry, onProgress, waitForQuota, ...request } = options;
  const waitMs = (request.waitSeconds ?? 0) * 1000;
  const bases = basesOf(base);
  const within = deadlineMs ?? waitMs + SPAWN_MS;
  // With several front doors, a silent one gets a share of the time only.
  const share = waitMs + Math.max(5_000, (within - waitMs) / bases.length);
  const key = idempotencyKey ?? uuid();
  let keyed = true;
  let unknown = false;
  const answer = await persist(
    { bases, token, deadlineMs: within, signal, onRetry, attemptMs: attemptTimeoutMs ?? (bases.length > 1 ? share : within) },
    (at, attempt) =>
      call(at, 'spawn', {
        ...attempt,
        method: 'POST',
        onProgress,
        headers: {
          'content-type': 'application/json',
          ...(onProgress && { accept: WATCHING }),
          ...(keyed && { 'idempotency-key': key }),
        },
        body: JSON.stringify(request),
      }),
    (error) => {
      const lost = error instanceof ProblemError ? error.problem.code === undefined : !(error instanceof TokenError);
      unknown ||= lost;
      if (!keyed && lost) return { again: false };
      const refused = keyed && error.code === 'registry-unavailable';
      keyed = !(refused && !unknown && idempotencyKey === undefined);
      if (refused && !keyed) return { again: true, pauseMs: 0 };
      if (keyed && waitMs > 0 && error.code === 'no-capacity') {
        return { again: true, pauseMs: error.retryAfterMs ?? COME_BACK_MS };
      }
      return { again: worthRetrying(error) || (waitForQuota === true && error.code === 'quota-exceeded') };
    },
  );
  if (signal?.aborted) {
    stop(answer.id, { base, token }).catch(() => {});
    signal.throwIfAborted();
  }
  return answer;
}

/**
 * Stops a spawn: its process is asked to end, and killed if it does not. Resolves once that is under way, also when the spawn
 * has ended already.
 *
 * @param {string} id
 * @param {import('./client.d.ts').CallOptions} [options]
 * @returns {Promise<import('./client.d.ts').Spawn>}
 */
export function stop(id, { base, token, deadlineMs = STOP_MS, attemptTimeoutMs, signal, onRetry } = {}) {
  return persist(
    { bases: basesOf(base), token, deadlineMs, signal, onRetry, attemptMs: attemptTimeoutMs ?? deadlineMs },
    // It goes out even while the page is being closed.
    (at, attempt) => call(at, `v1/spawns/${encodeURIComponent(id)}`, { ...attempt, method: 'DELETE', keepalive: true }),
    (error) => ({ again: worthRetrying(error) }),
  );
}
