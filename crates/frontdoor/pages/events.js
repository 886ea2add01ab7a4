/** What happened since the page was opened, newest first. */

import { byId, make, say, set } from './dom.js';
import { Windowed } from './window.js';
import { BAD_ENDS, clock, happened, short } from './words.js';

const BAD = ['node.stale', 'node.down', 'node.failing', 'spawn.suspect', 'spawn.lost'];
function isBad(event) {
  return BAD.includes(event.kind) || BAD_ENDS.includes(event.exit?.reason);
}

export class Events {
  #snapshot;
  #list;
  /** While held: what was there when that began. */
  #held;

  constructor(snapshot) {
    this.#snapshot = snapshot;
    this.#list = new Windowed(byId('events-frame'), {
      key: (event) => `${event.seq}`,
      create: () => this.#row(),
      update: (row, event) => this.#fill(row, event),
    });
    byId('events-show').addEventListener('change', () => this.render());
    byId('events-hold').addEventListener('click', () => {
      this.#held = this.#held ? undefined : [...snapshot.events];
      set(byId('events-hold'), 'aria-pressed', String(Boolean(this.#held)));
      this.render();
    });
  }

  render() {
    const show = byId('events-show').value;
    const all = this.#held ?? this.#snapshot.events;
    const shown = all.filter((event) => (show === 'bad' ? isBad(event) : event.kind.startsWith(show))).reverse();
    this.#list.show(shown);
    say(byId('events-count'), this.#snapshot.eventCount.toLocaleString());
    byId('events-empty').hidden = this.#snapshot.eventCount > 0;
  }

  #row() {
    const parts = {
      at: make('time'),
      who: make('span'),
      where: make('span', { class: 'sub inline' }),
      what: make('td', { class: 'c-what' }),
    };
    const row = make(
      'tr',
      {},
      make('td', { class: 'c-at' }, parts.at),
      make('td', { class: 'c-who' }, parts.who, parts.where),
      parts.what,
    );
    row.parts = parts;
    return row;
  }

  #fill(row, event) {
    if (row.seq === event.seq) return;
    row.seq = event.seq;
    const { parts } = row;
    say(parts.at, clock(event.at));
    set(parts.at, 'datetime', event.at);
    say(parts.who, event.spawn ? short(event.spawn) : event.node);
    set(parts.who, 'title', event.spawn);
    say(parts.where, event.spawn ? ` on ${event.node}` : '');
    say(parts.what, happened(event));
    set(parts.what, 'title', happened(event));
    set(row, 'class', isBad(event) ? 'bad' : false);
    set(row, 'data-kind', event.kind);
  }
}
