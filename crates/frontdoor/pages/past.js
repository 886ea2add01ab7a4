/**
 * Spawns of the past, by owner, tag, node, state, renderer and reason. The filter is in the address, so that a list can be shared; what
 * it shows is asked for and does not change by itself.
 */

import { explainExit } from '../client.js';
import { addressOf, show, shown } from './address.js';
import { ask } from './ask.js';
import { byId, codeOf, make, say } from './dom.js';
import { BAD_ENDS, clock, explained, pairsOf, short, span } from './words.js';

const PAGE = 100;
const FIELDS = ['state', 'reason', 'renderer', 'node', 'owner', 'tag', 'since'];

export class Past {
  #who;
  #cursor;
  #count = 0;
  /** Whether the last answer was none. */
  #failed = false;
  /** The filter that is shown, as it is asked for. */
  #query;

  constructor(who) {
    this.#who = who;
    byId('past-form').addEventListener('submit', (event) => {
      event.preventDefault();
      show(this.#filter(), { back: true });
      this.load();
    });
    byId('past-more').addEventListener('click', () => this.#next());
  }

  /** Shows the list that the address asks for, if it asks for one. */
  follow() {
    const asked = shown();
    if (!asked.has('past')) return;
    for (const field of FIELDS) byId(`past-${field}`).value = asked.get(field) ?? '';
    this.load();
    byId('past').scrollIntoView();
    byId('past-title').focus({ preventScroll: true });
  }

  /** The user has other rights now: what was refused may be there. */
  again() {
    if (this.#failed && !this.#who.wanted) this.load();
  }

  async load() {
    this.#query = this.#filter();
    this.#query.delete('past');
    this.#cursor = undefined;
    this.#count = 0;
    byId('past-frame').querySelector('tbody').replaceChildren();
    await this.#next();
  }

  #filter() {
    const filter = new URLSearchParams({ past: '' });
    for (const field of FIELDS) {
      const value = byId(`past-${field}`).value.trim();
      if (value) filter.set(field, value);
    }
    return filter;
  }

  async #next() {
    const query = this.#query;
    const asked = new URLSearchParams([...query, ['limit', PAGE]]);
    if (this.#cursor) asked.set('cursor', this.#cursor);
    say(byId('past-said'), 'Looking…');
    try {
      const { spawns, nextCursor } = await ask(this.#who, `v1/spawns?${asked}`);
      if (query !== this.#query) return;
      this.#failed = false;
      this.#cursor = nextCursor;
      this.#count += spawns.length;
      byId('past-frame').querySelector('tbody').append(...spawns.map((spawn) => row(spawn)));
      const more = nextCursor ? ', and there may be more' : '';
      say(byId('past-said'), this.#count === 0 && !more ? 'No spawn is like that.' : `${this.#count.toLocaleString()} shown, newest first${more}.`);
    } catch (error) {
      if (query !== this.#query) return;
      this.#failed = true;
      this.#who.judge(error);
      const { title, detail } = explained(error);
      say(byId('past-said'), `${title}: ${detail}`);
    }
    byId('past-frame').hidden = this.#count === 0;
    byId('past-more').hidden = !this.#cursor;
  }
}

function row({ id, node, state, exit, startedAt, endedAt, owner, tags, rendererType }) {
  const whose = [owner, ...pairsOf(tags)].filter(Boolean).join(' · ') || '–';
  const why = exit ? explainExit(exit) : state;
  const lived = endedAt ? `, after ${span(Date.parse(endedAt) - Date.parse(startedAt))}` : '';
  const kind = BAD_ENDS.includes(exit?.reason) ? 'bad' : 'calm';
  return make(
    'tr',
    {},
    make('th', { scope: 'row', class: 'c-id' }, make('a', { href: addressOf({ spawn: id }), title: id }, codeOf(short(id)))),
    make('td', { class: 'c-at' }, make('time', { datetime: endedAt ?? startedAt, title: endedAt ?? startedAt }, clock(endedAt ?? startedAt))),
    make('td', { class: 'c-node', title: node }, `${node} · ${rendererType}`),
    make('td', { class: 'c-why' }, make('span', { class: `chip ${kind}` }, exit?.reason ?? state), ` ${why}${lived}`),
    make('td', { class: 'c-owner', title: whose }, whose),
  );
}
