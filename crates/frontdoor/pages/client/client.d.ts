/** Types of `client.js`. They compile with `strict`; the library needs the DOM (`"lib": ["ES2022", "DOM"]`). */

/**
 * The caller's credential, where the front door authenticates callers: an API key or a JSON web token. A function is called
 * before every request and every connection, and once more when its token is refused. Keep the key with your backend and let
 * it make tokens that live for minutes. Without a token the call goes out without one.
 *
 *     const token = async () => (await fetch('/farm-token', { method: 'POST' })).text();
 */
export type Token = string | (() => string | null | undefined | PromiseLike<string | null | undefined>);

/** What goes with every call. */
export interface CallOptions {
  /** The caller's credential. Default: none. */
  token?: Token;
  /** The front door, or several that serve the same farm. Default: the one that `client.js` came from. */
  base?: string | URL | readonly (string | URL)[];
  /** When to give up, in milliseconds. Default: 60 000 (and `waitSeconds`) for `spawn`, 30 000 for `stop`. */
  deadlineMs?: number;
  /** When to give up one attempt and ask the next front door. Default: a share of the deadline where there are several. */
  attemptTimeoutMs?: number;
  /** Ends the call; it rejects with the signal's reason, and a spawn that was under way is undone. */
  signal?: AbortSignal;
  /** Called before every pause between two attempts. */
  onRetry?: (retry: Retry) => void;
}

/** An attempt failed and there will be another. */
export interface Retry {
  /** Why it failed. */
  error: ProblemError | NetworkError;
  /** Attempts so far. */
  attempts: number;
  /** Milliseconds until the next one. */
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
  /** The caller's own pairs of text, at most 16; see the record's `tags`. */
  tags?: Record<string, string>;
  /**
   * Seconds to wait in line when the farm is full, 0 to 60; 0 when left out. Until `deadlineMs` the call is repeated and keeps
   * its place in line.
   */
  waitSeconds?: number;
  /** Seconds that the spawn may live, from its start, at most what the operator allows; then it ends as `expired`. */
  maxSeconds?: number;
  /** Whether to go on trying, until the deadline, when the caller has as many spawns as it may have at once (`quota-exceeded`). */
  waitForQuota?: boolean;
  /** Your own key, to make the same call again from elsewhere. Default: one per call of `spawn`. */
  idempotencyKey?: string;
  /** Called whenever it has come further; never by a front door of a release that does not know. What it throws ends the call. */
  onProgress?: (progress: SpawnProgress) => void;
}

/** How far a spawn has come: `position` 1 is next, and an estimate that is not known is absent. After a failed start both may come again. */
export type SpawnProgress =
  | { state: 'queued'; position: number; estimateSeconds?: number; node?: undefined }
  | { state: 'starting'; node: string; position?: undefined; estimateSeconds?: undefined };

/** A stream cache server that a viewer can connect to at once. */
export interface SpawnAnswer {
  id: string;
  /** Where the viewer connects: `new Communicator.WebViewer({ containerId, endpointUri: endpoint })`. */
  endpoint: string;
  rendererType: RendererType;
  node: string;
  /** The id of the request in the farm's logs. */
  readonly requestId?: string;
  /** How many requests were made. */
  readonly attempts: number;
}

export type SpawnState = 'launching' | 'ready' | 'suspect' | 'disconnected' | 'stopping' | 'exited' | 'lost';

export type ExitReason =
  | 'disconnected' | 'initial-use-timeout' | 'failed' | 'signaled' | 'ready-timeout' | 'liveliness-lost'
  | 'stopped' | 'expired' | 'idle' | 'drained' | 'cancelled' | 'node-lost';

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
  viewer: 'connected' | 'gone' | 'never';
  connectedAt?: string;
  disconnectedAt?: string;
  /** When it is ended at the latest, where it may not live for ever. */
  expiresAt?: string;
  endedAt?: string;
  pool: string;
  labels?: Record<string, string>;
  /** The pairs of text that its caller gave it. */
  tags?: Record<string, string>;
  gpu?: number;
  /** Its server was kept ready, and was started with this id. */
  warm?: boolean;
  serverId?: string;
  /** The caller that it belongs to, where callers are authenticated: a key's name, `key:` and its id, or `jwt:` and a subject. */
  owner?: string;
}

/** What the outcomes of starts say of a node. */
export interface NodeHealth {
  /** `failing`: starts fail there; it is used as a last choice, or to try whether they succeed again. */
  state: 'ok' | 'failing';
  /** The last failure, in words. */
  reason?: string;
  since?: string;
  failures?: number;
  /** When the next request may be sent there as a probe. */
  nextProbeAt?: string;
}

export interface Drain {
  deadline: string;
  remaining: number;
  reason?: string;
  by?: string;
  startedAt: string;
}

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
  /** Host and port of the node's relay, where viewers reach the node through one. */
  viewerRelay?: string;
  endpoint: string;
  load: { cpu: number; memoryFreeBytes: number };
  /** How many servers start at once and how many spawns wait for that; servers that are kept ready. */
  starts?: { limit: number; waiting: number };
  warm?: Partial<Record<'csr' | 'ssr', { ready: number; wanted: number }>>;
  lastHeartbeatAt: string;
  drain?: Drain;
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
  /** The caller's credential. Default: none. A text that is refused ends the feed; see the state `refused`. */
  token?: Token;
  /** How much later than announced a heartbeat may come; 5 seconds when left out. */
  heartbeatBufferSeconds?: number;
  /** Pauses between attempts to connect: doubled each time, jittered. */
  backoff?: { firstMs?: number; maxMs?: number; /** @deprecated It is `maxMs` now. */ mostMs?: number };
}

/** How the connection is. */
export type LiveState =
  | { state: 'connecting'; base: string; attempts: number }
  | { state: 'open'; base: string; connection: string; caller?: { owner?: string; scopes?: string[] } }
  /** `reason` says why, as far as it is known; from the third attempt that no front door answered, also what may stand in the way. */
  | { state: 'waiting'; retryAt: number; attempts: number; code?: number; reason?: string }
  | { state: 'refused'; code: 'unauthenticated'; reason: string }
  | { state: 'closed' };

/** What can be followed; `spawns?node=…&owner=…&tag=key=value` is a part of all spawns. */
export type Topic = 'nodes' | 'spawns' | `spawns?${string}` | `node:${string}` | `spawn:${string}`;

/** Members of every event. */
interface EventBase<Kind extends string> {
  type: 'event';
  topic: Topic;
  seq: number;
  at: string;
  kind: Kind;
  node: string;
}

/** What an event says of a spawn that subscribers may not know yet. */
interface Introduced {
  rendererType: RendererType;
  endpoint: string;
  startedAt: string;
  labels: Record<string, string>;
  tags: Record<string, string>;
  owner: string;
  gpu: number;
}

/** A change of a node. A newer front door may send further kinds. */
export type NodeEvent =
  | EventBase<'node.up' | 'node.stale' | 'node.down' | 'node.drained' | 'node.capacity'>
  | (EventBase<'node.cordoned' | 'node.uncordoned' | 'node.forgotten'> & { by?: string })
  | (EventBase<'node.draining'> & Partial<Drain>)
  | (EventBase<'node.failing' | 'node.recovered'> & { health: NodeHealth });

/** A change of a spawn. A newer front door may send further kinds. */
export type SpawnEvent =
  | (EventBase<'spawn.launching' | 'spawn.ready' | 'spawn.suspect' | 'spawn.disconnected' | 'spawn.stopping' | 'spawn.lost'> &
      Partial<Introduced> & { spawn: string })
  | (EventBase<'spawn.connected'> & { spawn: string })
  | (EventBase<'spawn.exited'> & { spawn: string; exit: Exit })
  /** Of one spawn on its own topic; of all that reported with one heartbeat, by id, on `spawns` and `node:<id>`. */
  | (EventBase<'spawn.ping'> & ({ spawn: string; pings?: undefined } | { spawn?: undefined; pings: Record<string, string> }));

/** A change of the farm. */
export type LiveEvent = NodeEvent | SpawnEvent;

/** What happens on a topic. */
export type EventOf<T extends Topic> = T extends 'nodes'
  ? NodeEvent
  : T extends 'spawns' | `spawns?${string}` | `spawn:${string}`
    ? SpawnEvent
    : LiveEvent;

/** The state to start from: of `nodes` and `spawns` all of them; of one node or spawn that one, or null if it is unknown. */
export type SnapshotOf<T extends Topic> = T extends 'nodes'
  ? Node[]
  : T extends 'spawns' | `spawns?${string}`
    ? Spawn[]
    : T extends `node:${string}`
      ? Node | null
      : Spawn | null;

export interface Handlers<T extends Topic = Topic> {
  /** The state to start from, also after a gap that could not be closed. */
  onSnapshot?: (snapshot: SnapshotOf<T>, seq: number) => void;
  /** A change after that; in order, none missed, none twice. */
  onEvent?: (event: EventOf<T>) => void;
  /** The connection was lost and is back; what happened meanwhile follows as events. */
  onResume?: (seq: number) => void;
  /** The caller may not follow this topic, where the front door names the topic. */
  onRefused?: (error: RefusedError) => void;
}

export interface Subscription<T extends Topic = Topic> {
  readonly topic: T;
  /** The number of the last event or snapshot. */
  readonly seq: number | undefined;
  /** Asks for a new snapshot. */
  refresh(): void;
  unsubscribe(): void;
}

/** The events of a feed itself. */
export interface LiveEventMap {
  state: CustomEvent<LiveState>;
  /** When, by the front door's clock. */
  heartbeat: CustomEvent<string>;
  refused: CustomEvent<RefusedError>;
  violation: CustomEvent<{ code: string; message: string }>;
}

/** The live feed: connects by itself, and again whenever the connection is lost. */
export class Live extends EventTarget {
  constructor(options?: LiveOptions);
  readonly state: LiveState;
  subscribe<T extends Topic>(topic: T, handlers: Handlers<T>): Subscription<T>;
  /** Connects now, if it is waiting to. */
  hurry(): void;
  /** Connects anew, however the connection is, and asks for the token again: the caller is another one. Subscriptions resume. */
  renew(): void;
  close(): void;
  addEventListener<K extends keyof LiveEventMap>(
    type: K,
    listener: (this: Live, event: LiveEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof LiveEventMap>(
    type: K,
    listener: (this: Live, event: LiveEventMap[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** How a spawn ended, as a clause: `it was killed (SIGSEGV)`. */
export function explainExit(exit?: Exit): string;

/** Shows a spawn in the vendor's viewer, and says in words how it ended. */
export function mount(spawned: Pick<SpawnAnswer, 'id' | 'endpoint' | 'rendererType'>, options: MountOptions): Mounted;

/** The parts of the vendor's viewer that `mount` uses. */
export interface VendorViewer {
  setCallbacks(callbacks: Record<string, (...details: any[]) => void>): unknown;
  start(): unknown;
  shutdown?(): unknown;
  closeConnection?(): unknown;
}

/** The vendor's library: the global `Communicator`, or its module. */
export interface VendorLibrary<Viewer extends VendorViewer = VendorViewer> {
  WebViewer: new (options: any) => Viewer;
  RendererType?: any;
}

export interface MountOptions {
  vendor: VendorLibrary;
  /** Callbacks of the vendor's viewer, of the page's own. One that `mount` uses itself (`modelLoadFailure`) is called too. */
  callbacks?: Record<string, (...details: any[]) => void>;
  /** Hears each state, with a sentence for the user. */ onStatus?: (status: { state: 'connecting' | 'shown' | 'lost' | 'ended'; text: string }) => void;
  /** A feed that the page has already. Default: one of its own. */
  feed?: Live;
  /** As for `live` and `stop`. */
  base?: CallOptions['base'];
  token?: Token;
  /** The viewer's own options: `containerId`, `model`, `sessionToken`, `enginePath` … */
  [option: string]: unknown;
}

/** A viewer on a spawn. */
export interface Mounted {
  readonly viewer: VendorViewer;
  /** Resolves once, with how it ended; never rejects. */
  readonly ended: Promise<Ending>;
  /** Disconnects the viewer and stops the spawn. */
  close(): void;
}

/** How a viewer ended. */
export interface Ending {
  /** How the spawn ended, or what happened here: `idle` is the vendor's own timeout for input. */
  reason: ExitReason | 'closed' | 'refused' | 'unreachable' | 'connection-lost' | 'idle';
  /** A sentence for the user. */
  text: string;
  /** Where the farm has reported it. */
  exit?: Exit;
  /** Whether another spawn is worth a try: this one was not ended on purpose, and the server did not refuse. */
  again: boolean;
}

/** The stable codes of the HTTP contract, and those of this client. */
export type ErrorCode =
  | 'invalid-request' | 'not-found' | 'method-not-allowed' | 'idempotency-conflict' | 'already-connected' | 'node-up'
  | 'spawn-ended' | 'body-too-large' | 'unsupported-media-type' | 'no-capacity' | 'no-matching-node'
  | 'spawn-failed' | 'ready-timeout' | 'registry-unavailable' | 'node-unreachable' | 'shutting-down'
  | 'upgrade-required' | 'internal' | 'unauthenticated' | 'forbidden' | 'origin-not-allowed'
  | 'host-not-allowed' | 'rate-limited' | 'quota-exceeded' | 'network' | 'no-token' | 'deadline-exceeded'
  | 'closed'
  | `http-${number}`;

/** The body of an error answer (RFC 9457). */
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
  /** With `no-capacity` and `no-matching-node`: how many nodes could not take the spawn, by reason. */
  reasons?: Record<string, number>;
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

/** The page's own `token` gave no usable token; `cause` is what it threw. */
export class TokenError extends HatcheryError {}

/** The live feed is refused: the caller is not authenticated, or may not follow a topic. */
export class RefusedError extends HatcheryError {
  readonly code: 'unauthenticated' | 'forbidden';
  readonly topic?: string;
}

/** The deadline has passed; `cause` is the last attempt's outcome, `code` its answer's (`no-capacity`) or `deadline-exceeded`. */
export class DeadlineError extends HatcheryError {}
