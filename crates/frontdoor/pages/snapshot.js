/**
 * The snapshot of the farm that the dashboard shows, kept current by the live feed's events.
 *
 * Used slots are counted from the spawns, which are events and therefore exact at once. Load, memory and GPUs are as old as the
 * feed's last snapshot. A caller that sees its own spawns alone gets the used slots with that snapshot as well, and so does a page of a
 * farm with too many spawns.
 */

/** An ended spawn is shown for so long, so that its end can be seen. */
const SHOW_ENDED_MS = 60_000;
/** A pace seen for a shorter time says nothing. */
const PACE_AFTER_MS = 10_000;
const MAX_ENDED = 300;
const MAX_EVENTS = 1000;

const STATE_AFTER = {
  'spawn.launching': 'launching',
  'spawn.ready': 'ready',
  'spawn.suspect': 'suspect',
  'spawn.disconnected': 'disconnected',
  'spawn.stopping': 'stopping',
  'spawn.exited': 'exited',
  'spawn.lost': 'lost',
};

export class Snapshot {
  nodes = new Map();
  /** Those that have not ended. */
  spawns = new Map();
  /** Those that ended a moment ago, oldest first. */
  ended = [];
  /** Newest last. */
  events = [];
  /** How much later this browser's clock is than the farm's, as far as is known. */
  ahead = 0;
  /** Whether nodes and spawns have both arrived. */
  complete = false;
  /** Whether there may be spawns that the caller may not see. */
  partial = false;
  /** Whether there are too many spawns to follow: those of the chosen node are here. */
  many = false;
  /** Events since the page was opened. */
  eventCount = 0;
  #on = new Map();
  #drains = new Map();
  #got = { nodes: false, spawns: false };

  constructor(changed) {
    this.changed = changed;
  }

  /** The farm's time now. */
  now() {
    return Date.now() - this.ahead;
  }

  /** Takes the farm's clock from something that happened just now. */
  hear(at) {
    const ahead = Date.now() - Date.parse(at);
    // What is late by the network only ever looks later: the least is nearest to the truth. Drift is followed slowly.
    if (Number.isFinite(ahead)) this.ahead = this.ahead === 0 ? ahead : Math.min(ahead, this.ahead + 50);
  }

  takeNodes(list) {
    this.nodes = new Map(list.map((node) => [node.id, node]));
    for (const id of this.#drains.keys()) if (!this.nodes.get(id)?.drain) this.#drains.delete(id);
    this.#complete('nodes');
  }

  takeSpawns(list) {
    // The oldest first, as events add to it.
    this.spawns = new Map([...list].sort((a, b) => (a.startedAt < b.startedAt ? -1 : 1)).map((spawn) => [spawn.id, spawn]));
    this.#on = new Map();
    for (const spawn of list) this.#place(spawn);
    this.ended = this.ended.filter(({ id }) => !this.spawns.has(id));
    this.#complete('spawns');
  }

  nodeEvent(event) {
    this.#note(event);
    const node = this.nodes.get(event.node);
    if (event.kind === 'node.forgotten') {
      this.nodes.delete(event.node);
      this.#drains.delete(event.node);
    } else if (node) {
      const { kind } = event;
      if (kind === 'node.up') node.availability = 'up';
      if (kind === 'node.stale') node.availability = 'stale';
      if (kind === 'node.down') node.availability = 'down';
      if (kind === 'node.failing') node.health = event.health ?? { state: 'failing', since: event.at };
      if (kind === 'node.recovered') node.health = event.health ?? { state: 'ok' };
      if (kind === 'node.cordoned') node.eligibility = 'cordoned';
      if (kind === 'node.uncordoned') node.eligibility = 'eligible';
      if (kind === 'node.draining') {
        node.eligibility = 'draining';
        const { deadline, reason, by, startedAt = event.at } = event;
        node.drain = { deadline, reason, by, startedAt };
        this.#drains.delete(event.node);
      } else if (node.eligibility !== 'draining') {
        delete node.drain;
        this.#drains.delete(event.node);
      }
    }
    this.changed();
  }

  /** Returns how long the spawn took to be ready, where this event says so. */
  spawnEvent(event) {
    if (event.kind === 'spawn.ping') {
      const pings = event.pings ?? (event.spawn ? { [event.spawn]: event.at } : {});
      for (const id in pings) {
        const spawn = this.spawns.get(id);
        if (spawn) spawn.lastPingAt = pings[id];
      }
      this.changed();
      return undefined;
    }
    this.#note(event);
    const spawn = this.spawns.get(event.spawn) ?? this.#admit(event);
    let took;
    spawn.state = STATE_AFTER[event.kind] ?? spawn.state;
    if (event.kind === 'spawn.ready' && !spawn.readyAt) {
      spawn.readyAt = event.at;
      spawn.endpoint = event.endpoint ?? spawn.endpoint;
      took = Date.parse(event.at) - Date.parse(spawn.startedAt);
    }
    if (event.kind === 'spawn.connected') spawn.viewer = 'connected';
    if (spawn.viewer === 'connected' && ['spawn.disconnected', 'spawn.exited'].includes(event.kind)) spawn.viewer = 'gone';
    if (event.kind === 'spawn.exited') this.#retire(spawn, event);
    this.changed();
    return took;
  }

  /** Spawns of a node that have not ended; of all nodes without one. */
  running(node) {
    return node === undefined ? this.spawns.values() : (this.#on.get(node)?.values() ?? []);
  }

  /** Slots in use; a lost spawn takes none. */
  used(node) {
    if (!this.#got.spawns || this.partial || this.many) return node.slots.used;
    let used = 0;
    for (const spawn of this.running(node.id)) if (spawn.state !== 'lost') used += 1;
    return used;
  }

  isFull(node) {
    return this.used(node) >= node.slots.total;
  }

  gpuUse(node) {
    if (node.gpus.length === 0 || this.partial || this.many) return node.gpus;
    const use = node.gpus.map((gpu) => ({ ...gpu, used: 0 }));
    for (const spawn of this.running(node.id)) {
      const gpu = use.find((one) => one.index === spawn.gpu);
      if (gpu) gpu.used += 1;
    }
    return use;
  }

  /**
   * How a drain comes along: what is left, what there was at the most since it began, how much time there is at the most, and
   * how much it would take at the pace so far (undefined while there is none yet).
   */
  drain(node) {
    if (!node.drain) return undefined;
    const left = this.used(node);
    const began = Date.parse(node.drain.startedAt);
    const known = this.#drains.get(node.id);
    const first = known?.began === began ? known : { began, seen: left, most: left, from: this.now() };
    first.most = Math.max(first.most, left);
    this.#drains.set(node.id, first);
    const longestMs = Math.max(0, Date.parse(node.drain.deadline) - this.now());
    const gone = first.seen - left;
    const watched = this.now() - first.from;
    const paceMs = gone > 0 && watched > PACE_AFTER_MS ? (watched / gone) * left : undefined;
    return { left, most: first.most, longestMs, paceMs: paceMs < longestMs ? paceMs : undefined };
  }

  /** Forgets ended spawns that were shown long enough; whether there were any. */
  tidy() {
    const before = this.ended.length;
    const since = Date.now() - SHOW_ENDED_MS;
    while (this.ended.length > 0 && this.ended[0].seenAt < since) this.ended.shift();
    return this.ended.length !== before;
  }

  #complete(which) {
    this.#got[which] = true;
    this.complete = this.#got.nodes && this.#got.spawns;
    this.changed();
  }

  #admit(event) {
    const { spawn: id, node, at, rendererType = 'csr', endpoint, labels, tags, gpu, owner } = event;
    // A node that was given up may come back with what ran there.
    this.ended = this.ended.filter((one) => one.id !== id);
    const spawn = { id, node, endpoint, rendererType, labels, tags, gpu, owner, state: 'launching', startedAt: at };
    this.spawns.set(id, spawn);
    this.#place(spawn);
    return spawn;
  }

  #place(spawn) {
    if (!this.#on.has(spawn.node)) this.#on.set(spawn.node, new Map());
    this.#on.get(spawn.node).set(spawn.id, spawn);
  }

  #retire(spawn, event) {
    this.spawns.delete(spawn.id);
    this.#on.get(spawn.node)?.delete(spawn.id);
    // In place: a list that is drawn before it is looked through again has it still.
    this.ended.push(Object.assign(spawn, { exit: event.exit, endedAt: event.at, seenAt: Date.now() }));
    if (this.ended.length > MAX_ENDED) this.ended.shift();
  }

  #note(event) {
    this.eventCount += 1;
    this.events.push(event);
    if (this.events.length > MAX_EVENTS + 200) this.events.splice(0, 200);
  }
}
