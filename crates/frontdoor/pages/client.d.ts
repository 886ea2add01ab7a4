/** Types of `client.js`. */

/**
 * Who calls, where the front door wants to know: an API key or a JSON web token. A function is asked before every request
 * and every connection, and once more when what it gave is refused; keep the key with your backend and let it make tokens
 * that live for minutes. Without a text the call goes out without one.
 *
 *     const token = async () => (await fetch('/farm-token', { method: 'POST' })).text();
 */
export type Token = string | (() => string | null | undefined | PromiseLike<string | null | undefined>);

/** What goes with every call. */
export interface CallOptions {
  /** Who calls. Default: nobody in particular. */
  token?: Token;
  /** The front door, or several that serve the same farm. Default: the one that `client.js` came from. */
  base?: string | URL | readonly (string | URL)[];
  /** When to give up, in milliseconds. Default: 60 000 (and `waitSeconds`) for `spawn`, 30 000 for `stop`. */
  deadlineMs?: number;
  /** When to give up one attempt and ask the next front door. Default: a share of the deadline where there are several. */
  attemptTimeoutMs?: number;
  /** Ends the call; it rejects with the signal's reason, and a spawn that was under way is undone. */
  signal?: AbortSignal;
  /** Told before every pause between two attempts. */
  onRetry?: (retry: Retry) => void;
}

/** An attempt failed and there will be another. */
export interface Retry {
  /** What came of it. */
  error: ProblemError | NetworkError;
  /** How many there have been. */
  attempts: number;
  /** How long until the next. */
  delayMs: number;
}

export type RendererType = 'csr' | 'ssr';

/** What to spawn; every member is optional. */
export interface SpawnOptions extends CallOptions {
  /** Where the picture is rendered; `csr` when left out. */
  rendererType?: RendererType;
  /** Model that overrides whatever the viewer asks for, relative to the node's model directories. */
  model?: string;
  /** Token the viewer must present to the spawned server. */
  sessionToken?: string;
  /** Pool the node must belong to. */
  pool?: string;
  /** Labels the node must carry, all of them. */
  labels?: Record<string, string>;
  /** Seconds to wait in line when the farm is full, 0 to 60; 0 when left out. */
  waitSeconds?: number;
  /**
   * Whether to go on trying, until the deadline, when the caller has as many spawns as it may have at once (`quota-exceeded`).
   * When left out that is an error at once: room comes only with the end of a spawn, which may be far away.
   */
  waitForQuota?: boolean;
  /** Your own key, to make the same call again from elsewhere. Default: one per call of `spawn`. */
  idempotencyKey?: string;
}

/** A stream cache server that a viewer can connect to at once. */
export interface SpawnAnswer {
  id: string;
  /** Where the viewer connects: `new Communicator.WebViewer({ containerId, endpointUri: endpoint })`. */
  endpoint: string;
  rendererType: RendererType;
  node: string;
  /** Of the answer; the farm's logs know it. */
  readonly requestId?: string;
  /** How many requests it took. */
  readonly attempts: number;
}

export type SpawnState = 'launching' | 'ready' | 'suspect' | 'disconnected' | 'stopping' | 'exited' | 'lost';

export type ExitReason =
  | 'disconnected'
  | 'initial-use-timeout'
  | 'failed'
  | 'signaled'
  | 'ready-timeout'
  | 'liveliness-lost'
  | 'stopped'
  | 'drained'
  | 'cancelled'
  | 'node-lost';

/** How a spawn ended. */
export interface Exit {
  reason: ExitReason;
  code?: number;
  signal?: string;
  text?: string;
}

/** A spawn, as the farm knows it. Times are RFC 3339 in UTC. */
export interface Spawn {
  id: string;
  node: string;
  endpoint: string;
  rendererType: RendererType;
  state: SpawnState;
  exit?: Exit;
  startedAt: string;
  readyAt?: string;
  lastPingAt?: string;
  endedAt?: string;
  pool: string;
  labels?: Record<string, string>;
  gpu?: number;
  /** Who had it spawned, where callers have to say who they are. */
  owner?: string;
}

/** What the outcomes of starts say of a node. */
export interface NodeHealth {
  /** `failing`: starts fail there; it is used as a last choice, or to try whether they succeed again. */
  state: 'ok' | 'failing';
  /** The last failure, in words. */
  reason?: string;
  /** When it became `failing`. */
  since?: string;
  /** Failures in a row. */
  failures?: number;
  /** When the next request may be sent there as a probe. */
  nextProbeAt?: string;
}

/** A node of the farm. */
export interface Node {
  id: string;
  eligibility: 'eligible' | 'cordoned' | 'draining';
  availability: 'up' | 'stale' | 'down';
  slots: { total: number; used: number };
  gpus: { index: number; total: number; used: number }[];
  pool: string;
  labels: Record<string, string>;
  version: string;
  epoch: string;
  advertise: string;
  endpoint: string;
  load: { cpu: number; memoryFreeBytes: number };
  lastHeartbeatAt: string;
  drain?: { deadline: string; remaining: number; reason?: string; by?: string; startedAt: string };
  health: NodeHealth;
  /** Only requests that name its pool are placed there. */
  dedicated?: boolean;
}

/** Starts a stream cache server; resolves once a viewer can connect to it. Never starts two. */
export function spawn(options?: SpawnOptions): Promise<SpawnAnswer>;

/** Stops a spawn; resolves once that is under way, also when it had ended already. */
export function stop(id: string, options?: CallOptions): Promise<Spawn>;

/** Opens the live feed. */
export function live(options?: LiveOptions): Live;

export interface LiveOptions {
  /** The front door, or several that serve the same farm. */
  base?: string | URL | readonly (string | URL)[];
  /** Who listens. Default: nobody in particular. A text that is refused ends the feed; see the state `refused`. */
  token?: Token;
  /** How much later than announced a heartbeat may come; 5 seconds when left out. */
  heartbeatBufferSeconds?: number;
  /** Pauses between attempts to connect: doubled each time, jittered. */
  backoff?: { firstMs?: number; mostMs?: number };
}

/** How the connection is. */
export type LiveState =
  | { state: 'connecting'; base: string; attempts: number }
  | { state: 'open'; base: string; connection: string; caller?: { owner?: string; scopes?: string[] } }
  | { state: 'waiting'; retryAt: number; attempts: number; code?: number; reason?: string }
  | { state: 'refused'; code: 'unauthenticated'; reason: string }
  | { state: 'closed' };

/** Something that happened. What else it says depends on its kind. */
export interface LiveEvent {
  type: 'event';
  topic: string;
  seq: number;
  at: string;
  kind: `node.${string}` | `spawn.${string}`;
  node: string;
  spawn?: string;
  exit?: Exit;
  endpoint?: string;
  rendererType?: RendererType;
  pings?: Record<string, string>;
  /** With `node.failing` and `node.recovered`. */
  health?: NodeHealth;
  [more: string]: unknown;
}

export interface Handlers {
  /** The state to start from: of `nodes` and `spawns` all of them, of one node or spawn that one, or null if unknown. */
  onSnapshot?: (snapshot: Node[] | Spawn[] | Node | Spawn | null, seq: number) => void;
  /** A change after that; in order, none missed, none twice. */
  onEvent?: (event: LiveEvent) => void;
  /** The connection had been lost; what happened meanwhile comes now as events. */
  onResume?: (seq: number) => void;
  /** The caller may not follow this topic, as far as the front door says of which topic it speaks. */
  onRefused?: (error: RefusedError) => void;
}

export interface Subscription {
  readonly topic: string;
  /** Of the last event or snapshot. */
  readonly seq: number | undefined;
  /** Asks for a new snapshot. */
  refresh(): void;
  unsubscribe(): void;
}

/** The live feed: connects by itself, and again whenever the connection is lost. */
export class Live extends EventTarget {
  constructor(options?: LiveOptions);
  readonly state: LiveState;
  subscribe(topic: string, handlers: Handlers): Subscription;
  /** Connects now, if it is waiting to. */
  hurry(): void;
  close(): void;
  addEventListener(type: 'state', listener: (event: CustomEvent<LiveState>) => void): void;
  addEventListener(type: 'heartbeat', listener: (event: CustomEvent<string>) => void): void;
  addEventListener(type: 'refused', listener: (event: CustomEvent<RefusedError>) => void): void;
  addEventListener(type: 'violation', listener: (event: CustomEvent<{ code: string; message: string }>) => void): void;
}

/** The stable codes of the HTTP contract, and those of this client. */
export type ErrorCode =
  | 'invalid-request'
  | 'not-found'
  | 'method-not-allowed'
  | 'idempotency-conflict'
  | 'already-connected'
  | 'spawn-ended'
  | 'body-too-large'
  | 'unsupported-media-type'
  | 'no-capacity'
  | 'no-matching-node'
  | 'spawn-failed'
  | 'ready-timeout'
  | 'registry-unavailable'
  | 'node-unreachable'
  | 'shutting-down'
  | 'upgrade-required'
  | 'internal'
  | 'unauthenticated'
  | 'forbidden'
  | 'origin-not-allowed'
  | 'host-not-allowed'
  | 'rate-limited'
  | 'quota-exceeded'
  | 'network'
  | 'no-token'
  | 'deadline-exceeded'
  | 'closed'
  | `http-${number}`;

/** An error as the front door tells it (RFC 9457). */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: ErrorCode;
  requestId: string;
  field?: string;
  reason?: string;
  exitCode?: number;
  signal?: string;
  log?: string[];
  node?: string;
  spawn?: string;
  /** Every node that was tried for the call and did not give a spawn, in order. */
  attempts?: Attempt[];
  /** With `spawn-ended` (410): how the spawn ended that the key was answered with. */
  exit?: Exit;
}

/** A node that was tried and did not give a spawn. */
export interface Attempt {
  node: string;
  /** `spawn-failed` or `ready-timeout` where a process was started; `refused` or `node-unreachable` where none was. */
  code: string;
  /** Why, in words. */
  reason: string;
}

/** Anything that went wrong. */
export class HatcheryError extends Error {
  readonly code: ErrorCode;
  readonly attempts: number;
  readonly status?: number;
  readonly requestId?: string;
  readonly problem?: Partial<Problem>;
}

/** The front door answered with an error. */
export class ProblemError extends HatcheryError {
  readonly status: number;
  readonly problem: Partial<Problem>;
  readonly retryAfterMs?: number;
}

/** No answer. */
export class NetworkError extends HatcheryError {}

/** The page's own `token` gave none that could be shown to the front door; `cause` is what it threw. */
export class TokenError extends HatcheryError {}

/** The live feed is refused: who listens is not known, or may not follow a topic. */
export class RefusedError extends HatcheryError {
  readonly code: 'unauthenticated' | 'forbidden';
  readonly topic?: string;
}

/** It did not work out in time; `cause` is what came of the last attempt. */
export class DeadlineError extends HatcheryError {}
