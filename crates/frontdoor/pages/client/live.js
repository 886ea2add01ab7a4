/** The live feed: one WebSocket that connects by itself, again whenever it is lost, and resumes its subscriptions. */

import { basesOf, jittered, tokenOf } from './call.js';
import { HatcheryError, RefusedError } from './errors.js';

/** Between attempts to connect: at first, and at the most. */
const RECONNECT = { firstMs: 250, maxMs: 10_000 };
/** A connection without a `hello` by then is given up. */
const HELLO_MS = 10_000;
/** A connection that lived this long was a good one: the next pause is a short one again. */
const GOOD_MS = 5_000;
/** When a front door ends, all pages that were connected to it come at once: the first attempt comes at any time within this. */
const SPREAD_MS = 1_000;
/** After so many attempts in a row that no front door answered, the reason says what may stand in the way. */
const UNANSWERED = 3;

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
  /** Attempts in a row in which no frame came. */
  #unanswered = 0;
  /** Why no front door answers, as far as it is known. */
  #obstacle;
  #connection;
  /** Whether the front door sends long snapshots in parts. */
  #inParts = false;
  /** Why the front door refused the token of this connection. */
  #refused;
  #heartbeatMs = HELLO_MS;
  #state = { state: 'connecting', attempts: 0 };
  #wake = () => this.#look();

  constructor({ base, token, heartbeatBufferSeconds = 5, backoff = {} } = {}) {
    super();
    this.#bases = basesOf(base);
    this.#token = token;
    this.#buffer = heartbeatBufferSeconds;
    // `mostMs` is what the release before called `maxMs`.
    const before = backoff.mostMs !== undefined && { maxMs: backoff.mostMs };
    this.#backoff = { ...RECONNECT, ...before, ...backoff };
    globalThis.addEventListener?.('online', this.#wake);
    globalThis.document?.addEventListener('visibilitychange', this.#wake);
    this.#connect();
  }

  /** How the connection is: `connecting`, `open`, `waiting` (with `retryAt`), `refused` or `closed`. */
  get state() {
    return this.#state;
  }

  /**
   * Follows a topic: `nodes`, `spawns`, `node:<id>` or `spawn:<id>`; a part of all spawns is `spawns?node=…&owner=…&tag=key=value`.
   * `onSnapshot` gives the state to start from, also
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
    this.#ask(topic);
    return {
      topic,
      get seq() {
        return entry.seq;
      },
      refresh: () => {
        if (entry.handlers.has(mine)) this.#ask(topic);
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

  /** Connects anew, however the connection is, and asks for the token again: the caller is another one. Subscriptions resume. */
  renew() {
    if (this.#state.state === 'closed') return;
    clearTimeout(this.#timer);
    this.#drop();
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

  /** First the token, then the connection: a front door waits for the token only for seconds. */
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
    this.#unanswered += 1;
    this.#expect(HELLO_MS, 'no hello');
    const mine = (handle) => (event) => this.#socket === socket && handle(event);
    socket.onmessage = mine(({ data }) => this.#receive(JSON.parse(data), base, token));
    socket.onclose = mine(({ code, reason }) => {
      this.#lost(code, reason || this.#obstacle);
      if (this.#unanswered >= UNANSWERED) this.#explain(url);
    });
  }

  /**
   * Browsers do not say why a WebSocket could not be opened. Whether a plain request gets through says which side to look at. The
   * answer itself is of no use, and pages of any origin may ask without seeing it.
   */
  async #explain(url) {
    const waiting = this.#state;
    const reached = await fetch(new URL('../client.js', url.href.replace(/^ws/, 'http')), {
      method: 'HEAD',
      mode: 'no-cors',
      cache: 'no-store',
      signal: AbortSignal.timeout?.(HELLO_MS),
    }).then(
      () => true,
      () => false,
    );
    const obstacle = reached
      ? `${url.href} does not open, though its server answers: either a load balancer or proxy on the way refuses WebSockets, or ` +
        '--cors-origin of the front door does not allow the origin of this page'
      : `${url.host} cannot be reached`;
    if (this.#unanswered < UNANSWERED) return;
    if (this.#obstacle !== obstacle) console.warn(`hatchery: ${obstacle}`);
    this.#obstacle = obstacle;
    if (this.#state === waiting) this.#become({ ...waiting, reason: obstacle });
  }

  #receive(frame, base, token) {
    if (frame.type === 'hello') {
      this.#unanswered = 0;
      this.#obstacle = undefined;
      this.#heartbeatMs = (frame.heartbeatSeconds + this.#buffer) * 1000;
      this.#connection = frame.connection;
      this.#inParts = frame.features?.includes('parts') ?? false;
      if (token === undefined) this.#admit(base);
      else this.#socket.send(JSON.stringify({ type: 'authenticate', token }));
    }
    this.#expect(this.#opened ? this.#heartbeatMs : HELLO_MS, this.#opened ? 'no heartbeat' : 'no answer to the token');
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
      this.#notify(entry, 'onRefused', error);
      this.dispatchEvent(new CustomEvent('refused', { detail: error }));
    } else if (frame.type === 'error') {
      // A front door without authentication does not know `authenticate`.
      if (!this.#opened) this.#admit(base);
      else this.dispatchEvent(new CustomEvent('violation', { detail: frame }));
    } else if (entry && frame.type === 'subscribed') {
      const resumed = !('snapshot' in frame);
      entry.coming = frame.parts > 1 ? { parts: frame.parts, list: frame.snapshot } : undefined;
      entry.current = !entry.coming;
      if (entry.coming) return;
      // After a resume the missed events follow; a snapshot includes them.
      if (!resumed || entry.seq === undefined) entry.seq = frame.seq;
      if (resumed) this.#notify(entry, 'onResume', frame.seq);
      else this.#notify(entry, 'onSnapshot', frame.snapshot, frame.seq);
    } else if (entry?.coming && frame.type === 'part') {
      const { list, parts } = entry.coming;
      for (const one of frame.snapshot) list.push(one);
      if (frame.part < parts) return;
      [entry.coming, entry.current, entry.seq] = [undefined, true, frame.seq];
      this.#notify(entry, 'onSnapshot', list, frame.seq);
    } else if (entry?.current && frame.type === 'event' && frame.seq > entry.seq) {
      entry.seq = frame.seq;
      this.#notify(entry, 'onEvent', frame);
    }
  }

  /** Calls the handlers of a topic. One that throws, or subscribes anew, does not disturb the others. */
  #notify(entry, what, ...details) {
    for (const handlers of [...(entry?.handlers ?? [])]) {
      try {
        handlers[what]?.(...details);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  /** Subscribes to all topics, each from its last event on. */
  #admit(base, caller) {
    this.#opened = Date.now();
    for (const [topic, entry] of this.#topics) {
      entry.current = false;
      entry.coming = undefined;
      this.#ask(topic, entry.seq);
    }
    this.#become({ state: 'open', base: base.href, connection: this.#connection, ...(caller && { caller }) });
  }

  /** Calls the connection lost unless a frame arrives within so long: browsers do not notice every dead one. */
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
    const delay = renew ? 0 : good ? Math.random() * SPREAD_MS : jittered(this.#failures, this.#backoff);
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#become({ state: 'waiting', retryAt: Date.now() + delay, attempts: this.#failures, code, reason });
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close?.();
  }

  /** The network is back, or the page is visible again: no reason to wait. */
  #look() {
    if (!globalThis.document?.hidden) this.hurry();
  }

  #ask(topic, since) {
    this.#send({ type: 'subscribe', topic, ...(since !== undefined && { since }), ...(this.#inParts && { parts: true }) });
  }

  #send(frame) {
    if (this.#opened && this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #become(state) {
    this.#state = state;
    this.dispatchEvent(new CustomEvent('state', { detail: state }));
  }
}
