/**
 * Hatchery for web clients: spawn a stream cache server, stop it, and follow what happens to it.
 *
 *     import { spawn, stop, live } from 'http://farm:8080/client.js';
 *
 *     const { id, endpoint } = await spawn({ model: 'bolt', waitSeconds: 30 });
 *     const viewer = new Communicator.WebViewer({ containerId: 'viewer', endpointUri: endpoint });
 *     viewer.start();
 *
 *     const feed = live();
 *     feed.subscribe(`spawn:${id}`, {
 *       onEvent: (event) => { if (event.kind === 'spawn.exited') console.log('ended:', event.exit.reason); },
 *     });
 *
 * Where the front door wants to know who calls, `token` says it: a text, or better a function that asks the page's own
 * backend, which knows its user and keeps the key that tokens are made with:
 *
 *     const token = async () => (await fetch('/farm-token', { method: 'POST' })).text();
 *     const { id } = await spawn({ token });
 *     const feed = live({ token });
 *
 * No dependency, no build step. The types are in `client.d.ts`. Without `base`, the front door is the one that this
 * file came from; with several, one that fails is passed over for the next.
 *
 * @module
 */

const HOME = new URL('.', import.meta.url);
const SPAWN_MS = 60_000;
const STOP_MS = 30_000;
/** Between attempts: at first, and at the most. */
const BACKOFF = { firstMs: 250, mostMs: 10_000 };
/** A connection that has not said hello by then is given up. */
const HELLO_MS = 10_000;
/** A connection that lived this long was a good one: the next pause is a short one again. */
const GOOD_MS = 5_000;

/** Anything that went wrong. `code` is for programs and stable; the message is for people. */
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

/** The front door answered with an error; `problem` is all it said. */
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

/** No answer: nobody listens there, the connection broke, or the browser did not allow the call. */
export class NetworkError extends HatcheryError {
  constructor(base, cause, attempts) {
    const late = cause?.name === 'TimeoutError';
    super(`${base.host} ${late ? 'did not answer in time' : 'cannot be reached'}`, { code: 'network', cause, attempts });
  }
}

/** The page's own `token` gave none that could be shown to the front door; `cause` is what it threw. */
export class TokenError extends HatcheryError {
  constructor(message, cause, attempts) {
    super(message, { code: 'no-token', cause, attempts });
  }
}

/** The live feed is refused: `code` is `unauthenticated`, or `forbidden` for the topics the caller may not follow. */
export class RefusedError extends HatcheryError {
  constructor({ code, message, topic }) {
    super(message || 'the front door does not accept who calls', { code });
    this.topic = topic;
  }
}

/** It did not work out in time; `cause` is what came of the last attempt. */
export class DeadlineError extends HatcheryError {
  constructor(deadlineMs, cause, attempts) {
    const why = cause ? `: ${cause.message}` : '';
    super(`no success within ${Math.round(deadlineMs / 100) / 10} s${why}`, {
      code: 'deadline-exceeded',
      cause,
      attempts,
    });
    this.status = cause?.status;
    this.requestId = cause?.requestId;
    this.problem = cause?.problem;
  }
}

/**
 * Starts a stream cache server; resolves once a viewer can connect to its `endpoint`.
 *
 * What fails on the way (no connection, 503, too many spawns in a minute) is tried again until the deadline. One idempotency key goes with all
 * attempts, so there is never a second spawn. A registry that is away cannot keep such a promise and refuses the key;
 * then one attempt is made without it, and not repeated if its outcome stays unknown.
 *
 * @param {import('./client.d.ts').SpawnOptions} [options]
 * @returns {Promise<import('./client.d.ts').SpawnAnswer>}
 */
export async function spawn(options = {}) {
  const { base, token, deadlineMs, attemptTimeoutMs, signal, idempotencyKey, onRetry, waitForQuota, ...request } = options;
  const waitMs = (request.waitSeconds ?? 0) * 1000;
  const bases = basesOf(base);
  const within = deadlineMs ?? waitMs + SPAWN_MS;
  // Whoever has the choice does not wait for a silent front door until the end.
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
        headers: { 'content-type': 'application/json', ...(keyed && { 'idempotency-key': key }) },
        body: JSON.stringify(request),
      }),
    (error) => {
      const lost = error instanceof ProblemError ? error.problem.code === undefined : !(error instanceof TokenError);
      unknown ||= lost;
      if (!keyed && lost) return { again: false };
      const refused = keyed && error.code === 'registry-unavailable';
      keyed = !(refused && !unknown && idempotencyKey === undefined);
      if (refused && !keyed) return { again: true, pauseMs: 0 };
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
 * Stops a spawn: its process is asked to end, and made to if it does not. Resolves once that is under way, also when it
 * had ended already.
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

/**
 * Opens the live feed. It connects by itself, and again whenever the connection is lost; subscriptions resume where they
 * were.
 *
 * @param {import('./client.d.ts').LiveOptions} [options]
 * @returns {Live}
 */
export function live(options) {
  return new Live(options);
}

/**
 * The live feed. Events: `state` (detail: LiveState), `heartbeat` (detail: when, by the front door's clock), `refused` (detail:
 * RefusedError), `violation`.
 *
 * A token that was refused is not shown again: with a text the feed ends there, in the state `refused`; a function is asked
 * for another one at once, and then at growing intervals.
 */
export class Live extends EventTarget {
  #bases;
  #token;
  #buffer;
  #backoff;
  #topics = new Map();
  #socket;
  #timer;
  #failures = 0;
  #turn = 0;
  #opened = 0;
  #connection;
  /** What the front door said against the token of this connection. */
  #refused;
  #heartbeatMs = HELLO_MS;
  #state = { state: 'connecting', attempts: 0 };
  #wake = () => this.#look();

  constructor({ base, token, heartbeatBufferSeconds = 5, backoff = {} } = {}) {
    super();
    this.#bases = basesOf(base);
    this.#token = token;
    this.#buffer = heartbeatBufferSeconds;
    this.#backoff = { ...BACKOFF, ...backoff };
    globalThis.addEventListener?.('online', this.#wake);
    globalThis.document?.addEventListener('visibilitychange', this.#wake);
    this.#connect();
  }

  /** How the connection is: `connecting`, `open`, `waiting` (with `retryAt`), `refused` or `closed`. */
  get state() {
    return this.#state;
  }

  /**
   * Follows a topic: `nodes`, `spawns`, `node:<id>` or `spawn:<id>`. `onSnapshot` gives the state to start from, also
   * after a gap that could not be closed; `onEvent` every change after it, none twice; `onResume` says that a connection
   * was lost and nothing with it; `onRefused` that the caller may not follow this topic.
   *
   * @param {string} topic
   * @param {import('./client.d.ts').Handlers} handlers
   * @returns {import('./client.d.ts').Subscription}
   */
  subscribe(topic, handlers) {
    if (this.#state.state === 'closed') throw new HatcheryError('the feed is closed', { code: 'closed' });
    const entry = this.#topics.get(topic) ?? { handlers: new Set(), seq: undefined, current: false };
    // Its own object, so that the same handlers may subscribe twice.
    const mine = { ...handlers };
    entry.handlers.add(mine);
    this.#topics.set(topic, entry);
    // A topic that is subscribed already starts over, which gives the newcomer its snapshot.
    this.#send({ type: 'subscribe', topic });
    return {
      topic,
      get seq() {
        return entry.seq;
      },
      refresh: () => {
        if (entry.handlers.has(mine)) this.#send({ type: 'subscribe', topic });
      },
      unsubscribe: () => {
        if (!entry.handlers.delete(mine) || entry.handlers.size > 0) return;
        this.#topics.delete(topic);
        this.#send({ type: 'unsubscribe', topic });
      },
    };
  }

  /** Connects now, if it is waiting to. */
  hurry() {
    if (this.#state.state !== 'waiting') return;
    clearTimeout(this.#timer);
    this.#connect();
  }

  /** Ends the feed and all its subscriptions. */
  close() {
    globalThis.removeEventListener?.('online', this.#wake);
    globalThis.document?.removeEventListener('visibilitychange', this.#wake);
    clearTimeout(this.#timer);
    this.#topics.clear();
    this.#drop();
    this.#become({ state: 'closed' });
  }

  /** First the token, then the connection: a front door waits for the one only for seconds. */
  async #connect() {
    const base = this.#bases[this.#turn % this.#bases.length];
    const mine = {};
    this.#socket = mine;
    this.#opened = 0;
    this.#refused = undefined;
    this.#become({ state: 'connecting', base: base.href, attempts: this.#failures });
    let token;
    try {
      token = await tokenOf(this.#token);
    } catch (error) {
      if (this.#socket === mine) this.#lost(undefined, error.message);
      return;
    }
    // Closed meanwhile.
    if (this.#socket === mine) this.#open(base, token);
  }

  #open(base, token) {
    const url = new URL('v1/live', base);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    let socket;
    try {
      socket = new WebSocket(url);
    } catch (error) {
      // A page that came by TLS may not open a connection without it.
      this.#lost(undefined, error.message);
      return;
    }
    this.#socket = socket;
    this.#expect(HELLO_MS, 'no hello');
    const mine = (handle) => (event) => this.#socket === socket && handle(event);
    socket.onmessage = mine(({ data }) => this.#receive(JSON.parse(data), base, token));
    socket.onclose = mine(({ code, reason }) => this.#lost(code, reason));
  }

  #receive(frame, base, token) {
    if (frame.type === 'hello') {
      this.#heartbeatMs = (frame.heartbeatSeconds + this.#buffer) * 1000;
      this.#connection = frame.connection;
      if (token === undefined) this.#admit(base);
      else this.#socket.send(JSON.stringify({ type: 'authenticate', token }));
    }
    this.#expect(this.#opened ? this.#heartbeatMs : HELLO_MS, this.#opened ? 'no heartbeat' : 'no word on the token');
    const entry = this.#topics.get(frame.topic);
    if (frame.type === 'heartbeat') {
      this.dispatchEvent(new CustomEvent('heartbeat', { detail: frame.at }));
    } else if (frame.type === 'authenticated') {
      const { owner, scopes } = frame;
      if (!this.#opened) this.#admit(base, { owner, scopes });
    } else if (frame.type === 'error' && (frame.code === 'unauthenticated' || frame.code === 'forbidden')) {
      const error = new RefusedError(frame);
      // The front door closes next.
      if (frame.code === 'unauthenticated') this.#refused = error;
      this.#tell(entry, 'onRefused', error);
      this.dispatchEvent(new CustomEvent('refused', { detail: error }));
    } else if (frame.type === 'error') {
      // One that lets everybody in does not know what to make of a token.
      if (!this.#opened) this.#admit(base);
      else this.dispatchEvent(new CustomEvent('violation', { detail: frame }));
    } else if (entry && frame.type === 'subscribed') {
      entry.current = true;
      const resumed = !('snapshot' in frame);
      // The events between come after this; a snapshot has them in it.
      if (!resumed || entry.seq === undefined) entry.seq = frame.seq;
      if (resumed) this.#tell(entry, 'onResume', frame.seq);
      else this.#tell(entry, 'onSnapshot', frame.snapshot, frame.seq);
    } else if (entry?.current && frame.type === 'event' && frame.seq > entry.seq) {
      entry.seq = frame.seq;
      this.#tell(entry, 'onEvent', frame);
    }
  }

  /** What one handler does wrong, or changes about the others, costs no other one what it is told. */
  #tell(entry, what, ...told) {
    for (const handlers of [...(entry?.handlers ?? [])]) {
      try {
        handlers[what]?.(...told);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  /** Subscribes to everything, from where it was. */
  #admit(base, caller) {
    this.#opened = Date.now();
    for (const [topic, entry] of this.#topics) {
      entry.current = false;
      this.#send({ type: 'subscribe', topic, ...(entry.seq !== undefined && { since: entry.seq }) });
    }
    this.#become({ state: 'open', base: base.href, connection: this.#connection, ...(caller && { caller }) });
  }

  /** Whatever arrives puts it off; when nothing does, the connection is dead, whatever the browser believes. */
  #expect(ms, why) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lost(undefined, why), ms);
  }

  #lost(code, reason) {
    const refused = this.#refused;
    const good = this.#opened && Date.now() - this.#opened > GOOD_MS;
    this.#drop();
    clearTimeout(this.#timer);
    if (refused && typeof this.#token !== 'function') {
      this.#become({ state: 'refused', code: refused.code, reason: refused.message });
      return;
    }
    // The first time another token is all that is needed.
    const renew = refused && (good || this.#failures === 0);
    this.#failures = good ? 1 : this.#failures + 1;
    if (!refused) this.#turn += 1;
    const delay = renew ? 0 : jittered(this.#failures, this.#backoff);
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#become({ state: 'waiting', retryAt: Date.now() + delay, attempts: this.#failures, code, reason });
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close?.();
  }

  /** The network is back, or somebody looks again: no reason to wait. */
  #look() {
    if (!globalThis.document?.hidden) this.hurry();
  }

  #send(frame) {
    if (this.#opened && this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #become(state) {
    this.#state = state;
    this.dispatchEvent(new CustomEvent('state', { detail: state }));
  }
}

/** One request after the other, at one front door after the other, until one succeeds, fails for good, or time is up. */
async function persist({ bases, token, deadlineMs, attemptMs, signal, onRetry }, attempt, judge) {
  const until = Date.now() + deadlineMs;
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
    // A verdict is one, however late. What was heard before says more than that nothing was heard in what time was left.
    const verdict = error instanceof ProblemError;
    if (!again && (verdict || left > 0)) throw error;
    if (left <= 0) throw new DeadlineError(deadlineMs, verdict ? error : (before ?? error), attempts);
    // Another front door need not be waited for, unless all have been asked.
    const round = Math.ceil(attempts / bases.length);
    const fresh = attempts < bases.length && !(error instanceof ProblemError);
    const pause = pauseMs ?? (fresh ? 0 : Math.max(error.retryAfterMs ?? 0, jittered(round, BACKOFF)));
    if (pause >= left) throw new DeadlineError(deadlineMs, error, attempts);
    before = error;
    onRetry?.({ error, attempts, delayMs: pause });
    await sleep(pause, signal);
  }
}

async function call(base, path, { attempts, token, headers, ...init }) {
  let response;
  let text;
  try {
    response = await fetch(new URL(path, base), {
      ...init,
      headers: { ...headers, ...(token !== undefined && { authorization: `Bearer ${token}` }) },
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
    });
    text = await response.text();
  } catch (cause) {
    throw new NetworkError(base, cause, attempts);
  }
  const body = parsed(text);
  const requestId = response.headers.get('x-request-id') ?? undefined;
  if (response.ok && body !== undefined) return Object.defineProperty(body, 'requestId', { value: requestId });
  const seconds = Number(response.headers.get('retry-after') ?? NaN);
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : undefined;
  throw new ProblemError(body ?? {}, { status: response.status, requestId, retryAfterMs, attempts });
}

/** What `token` gives, within the time that is left; never part of an error. */
async function tokenOf(token, signal, attempts) {
  let given = token;
  if (typeof token === 'function') {
    try {
      given = await unless(signal, token());
    } catch (cause) {
      throw new TokenError(signal?.aborted ? 'there was no token in time' : 'there is no token', cause, attempts);
    }
  }
  if (given === undefined || given === null) return undefined;
  // What a backend's answer ends with is no part of it.
  const text = typeof given === 'string' ? given.trim() : '';
  if (!/^[\x21-\x7e]+$/.test(text)) throw new TokenError('the token is not one: a text without spaces is wanted', undefined, attempts);
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

/** A 502 or 504 with a code is the farm's own verdict; one without comes from something in between. */
function worthRetrying(error) {
  if (error instanceof TokenError) return false;
  if (!(error instanceof ProblemError)) return true;
  // Too many in a minute passes with the minute; too many at once with one that ends, which may be never.
  if (error.status === 429) return error.code !== 'quota-exceeded';
  return error.status === 503 || (error.problem.code === undefined && [502, 504].includes(error.status));
}

function jittered(failures, { firstMs, mostMs }) {
  return Math.min(mostMs, firstMs * 2 ** Math.min(failures - 1, 20)) * (0.5 + Math.random() / 2);
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => (signal?.removeEventListener('abort', stopped), resolve()), ms);
    const stopped = () => (clearTimeout(timer), reject(signal.reason));
    signal?.addEventListener('abort', stopped, { once: true });
  });
}

function basesOf(base) {
  const list = base === undefined ? [HOME] : [base].flat();
  if (list.length === 0) throw new TypeError('base: at least one front door is needed');
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
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
