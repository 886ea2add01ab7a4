/**
 * What failed in the last hour, also before the page was opened, and whether all nodes fail alike. Both are asked for: the feed
 * brings only what happens from now on. What is asked for is bounded: one page of ended spawns, and the nodes only while
 * something has just failed.
 */

import { byId, make } from './dom.js';
import { BAD_ENDS } from './words.js';

const HOUR_MS = 3_600_000;
/** The largest page that a front door gives. */
const PAGE = 1000;
/** Reasons that are named; the rest are counted together. */
const MAX_REASONS = 4;
/** While starts fail it is looked at so often what they have in common. */
const LOOK_MS = 5_000;

export class Failures {
  /** The cause that all nodes have in common, if they have one. */
  cause;
  #who;
  #changed;
  /** By spawn: when it ended, and why. */
  #ended = new Map();
  #timer;
  #key = '';

  /** `changed()` is called when a cause comes or goes. */
  constructor(who, changed) {
    this.#who = who;
    this.#changed = changed;
  }

  /** Asks for what failed before. */
  async load() {
    try {
      const { spawns } = await this.#get(`../v1/spawns?state=exited&limit=${PAGE}`);
      for (const { id, exit, endedAt } of spawns) this.#add(id, exit, endedAt);
      this.render();
    } catch {
      // The banner says what is the matter; the next snapshot asks again.
    }
    await this.#look();
  }

  /** Takes in the end of a spawn. */
  heard(event) {
    if (event.kind !== 'spawn.exited' || !this.#add(event.spawn, event.exit, event.at)) return;
    this.#timer ??= setTimeout(() => this.#look(), 1_000);
  }

  render() {
    const since = Date.now() - HOUR_MS;
    const reasons = new Map();
    for (const [id, { at, why }] of this.#ended) {
      if (at < since) this.#ended.delete(id);
      else reasons.set(why, (reasons.get(why) ?? 0) + 1);
    }
    const sorted = [...reasons].sort(([, a], [, b]) => b - a);
    const rest = sorted.slice(MAX_REASONS).reduce((sum, [, count]) => sum + count, 0);
    const shown = [...sorted.slice(0, MAX_REASONS), ...(rest > 0 ? [['other reasons', rest]] : [])];
    const place = byId('failures');
    place.hidden = shown.length === 0;
    const key = shown.map(([why, count]) => `${count} ${why}`).join();
    if (key === this.#key) return;
    this.#key = key;
    const full = this.#ended.size >= PAGE ? ' or more' : '';
    place.replaceChildren(
      make('strong', {}, `${this.#ended.size.toLocaleString()}${full} failed in the last hour`),
      ...shown.map(([why, count]) => make('span', { class: 'chip bad' }, `${count.toLocaleString()} ${why}`)),
    );
  }

  /** Whether it counts. */
  #add(id, exit, endedAt) {
    const at = Date.parse(endedAt);
    if (!BAD_ENDS.includes(exit?.reason) || !(at > Date.now() - HOUR_MS)) return false;
    this.#ended.set(id, { at, why: exit.text ?? exit.reason });
    if (this.#ended.size > PAGE) this.#ended.delete(this.#ended.keys().next().value);
    return true;
  }

  /** Asks what all nodes have in common; again and again while they do. */
  async #look() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const before = this.cause?.reason;
    try {
      this.cause = this.#who.may('read') ? (await this.#get('../v1/nodes')).farmCause : undefined;
    } catch {
      // As it was.
    }
    if (this.cause) this.#timer = setTimeout(() => this.#look(), LOOK_MS);
    if (this.cause?.reason !== before) this.#changed();
  }

  async #get(path) {
    const response = await fetch(new URL(path, import.meta.url), {
      headers: this.#who.headers,
      cache: 'no-store',
      signal: AbortSignal.timeout(15_000),
    });
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response.json();
  }
}
