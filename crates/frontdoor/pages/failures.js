/**
 * What failed in the last hour, also before the page was opened, and whether all nodes fail alike. Both are asked for: the feed
 * brings only what happens from now on. What is asked for is bounded: one page of ended spawns, and the nodes only while
 * something has just failed.
 */

import { Again, ask } from './ask.js';
import { byId, make, say, set } from './dom.js';
import { BAD_ENDS } from './words.js';

const HOUR_MS = 3_600_000;
/** The largest page that a front door gives. */
const PAGE = 1000;
/** Reasons that are named; the rest are counted together. */
const MAX_REASONS = 4;
/** From this share of failures on something is badly wrong. */
const MANY = 0.25;
/** Codes of requests that the farm, and not their sender, is the reason of. */
const AWAY = ['no-capacity', 'no-matching-node', 'registry-unavailable', 'shutting-down', 'internal'];
/** While starts fail it is looked at so often what they have in common. */
const LOOK_MS = 5_000;

export class Failures {
  /** The cause that all nodes have in common, if they have one. */
  cause;
  #who;
  #minutes;
  #changed;
  /** By spawn: when it ended, and why. */
  #ended = new Map();
  #again = new Again(() => this.#look());
  #key = '';

  /** `minutes` counts all that was started and failed; `changed()` is called when a cause comes or goes. */
  constructor(who, minutes, changed) {
    this.#who = who;
    this.#minutes = minutes;
    this.#changed = changed;
  }

  /** Asks for what failed before. */
  async load() {
    try {
      const { spawns } = await ask(this.#who, `v1/spawns?state=exited&limit=${PAGE}`);
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
    this.#minutes.soon();
    this.#again.soon();
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
    this.#tile(sorted[0]?.[0]);
    const place = byId('failures');
    place.hidden = shown.length === 0;
    const key = shown.map(([why, count]) => `${count} ${why}`).join();
    if (key === this.#key) return;
    this.#key = key;
    place.replaceChildren(...shown.map(([why, count]) => make('span', { class: 'chip bad' }, `${count.toLocaleString()} ${why}`)));
  }

  /** How much of what was started failed, and why most of it did. `reason`: the most frequent one, in words. */
  #tile(reason) {
    const { known } = this.#minutes;
    const { started, failed, refused } = this.#minutes.sum;
    const counted = known ? [...failed.values()].reduce((sum, number) => sum + number, 0) : 0;
    // The counts are asked for now and then; what the feed has brought since counts as well.
    const bad = Math.max(counted, this.#ended.size);
    const all = Math.max(started, bad);
    const share = all === 0 ? 0 : bad / all;
    if (!known && bad === 0) {
      say(byId('failed'), '–');
      say(byId('of-started'), '');
      say(byId('failures-said'), 'Not known.');
      set(byId('failures-card'), 'data-kind', false);
      return;
    }
    say(byId('failed'), bad.toLocaleString());
    say(byId('of-started'), known ? `of ${all.toLocaleString()} started` : '');
    const most = reason ?? [...failed].sort(([, a], [, b]) => b - a)[0]?.[0];
    const turnedAway = [...refused].filter(([code]) => known && AWAY.includes(code)).sort(([, a], [, b]) => b - a);
    const away = turnedAway.reduce((sum, [, number]) => sum + number, 0);
    const said = [
      bad > 0 && (known ? `${Math.round(share * 100)} %, most often: ${most}.` : `Most often: ${most}. Of how many is not known.`),
      away > 0 && `${away.toLocaleString()} turned away, most often: ${turnedAway[0][0]}.`,
    ].filter(Boolean);
    say(byId('failures-said'), said.join(' ') || 'None, and no request was turned away.');
    set(byId('failures-card'), 'data-kind', known && share >= MANY ? 'bad' : bad + away > 0 ? 'warn' : 'good');
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
    this.#again.begun();
    const before = this.cause?.reason;
    try {
      this.cause = this.#who.may('read') ? (await ask(this.#who, 'v1/nodes')).farmCause : undefined;
    } catch {
      // As it was.
    }
    if (this.cause) this.#again.soon(LOOK_MS);
    if (this.cause?.reason !== before) this.#changed();
  }
}
