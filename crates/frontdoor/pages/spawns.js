/** The spawns of the chosen node, or of all: newest first, those that just ended at the end. */

import { explainExit } from '../client.js';
import { addressOf } from './address.js';
import { allow, byId, codeOf, make, say, set } from './dom.js';
import { Windowed } from './window.js';
import { BAD_ENDS, brief, clock, pairsOf, short } from './words.js';

const KIND = {
  launching: 'calm',
  ready: 'good',
  suspect: 'warn',
  disconnected: 'calm',
  stopping: 'warn',
  lost: 'bad',
  exited: 'calm',
};

const VIEWER = { connected: 'a viewer is connected', gone: 'its viewer has left', never: 'no viewer has connected' };

export class Spawns {
  #snapshot;
  #orders;
  #node;
  #list;
  #filter = { text: '', show: '' };

  constructor(snapshot, orders) {
    this.#snapshot = snapshot;
    this.#orders = orders;
    this.#list = new Windowed(byId('spawns-frame'), {
      key: (spawn) => spawn.id,
      create: (id) => this.#row(id),
      update: (row, spawn) => this.#fill(row, spawn),
    });
    const changed = () => {
      this.#filter = { text: byId('spawns-search').value.trim().toLowerCase(), show: byId('spawns-show').value };
      byId('spawns-frame').scrollTop = 0;
      this.render();
    };
    byId('spawns-search').addEventListener('input', changed);
    byId('spawns-search').addEventListener('change', changed);
    byId('spawns-show').addEventListener('change', changed);
  }

  choose(node) {
    this.#node = node;
    byId('spawns-frame').scrollTop = 0;
    this.render();
  }

  render() {
    const living = [...this.#snapshot.running(this.#node)].reverse();
    const ended = this.#snapshot.ended.filter((spawn) => this.#node === undefined || spawn.node === this.#node).reverse();
    const shown = [...living, ...ended].filter((spawn) => this.#wanted(spawn));
    this.#list.show(shown);
    const lives = shown.filter((spawn) => spawn.state !== 'exited').length;
    say(
      byId('spawns-count'),
      lives === living.length ? living.length.toLocaleString() : `${lives.toLocaleString()} of ${living.length.toLocaleString()}`,
    );
    const empty = byId('spawns-empty');
    empty.hidden = shown.length > 0 || !this.#snapshot.complete;
    const none =
      this.#snapshot.many && this.#node === undefined
        ? 'There are too many spawns for one list. Choose a node to see what runs there.'
        : 'Nothing runs here.';
    say(empty, living.length + ended.length === 0 ? none : 'No spawn is like that.');
  }

  /** Only what stands in the rows in sight. */
  redraw() {
    this.#list.draw();
  }

  #wanted(spawn) {
    const { text, show } = this.#filter;
    if (show && spawn.state !== show) return false;
    if (!text) return true;
    const pairs = [...pairsOf(spawn.labels), ...pairsOf(spawn.tags)];
    return [spawn.id, spawn.node, spawn.endpoint ?? '', spawn.owner ?? '', ...pairs].some((word) => word.toLowerCase().includes(text));
  }

  #row(id) {
    const button = (text, act) =>
      make('button', { type: 'button', class: 'small', 'aria-label': `${text} of ${short(id)}`, onclick: act }, text);
    const parts = {
      where: make('span', { class: 'sub' }),
      chip: make('span', { class: 'chip' }),
      age: make('td', { class: 'c-age' }),
      ping: make('td', { class: 'c-ping' }),
      log: button('Log', () => this.#orders.log(id)),
      stop: button('Stop', () => this.#orders.stop(id)),
    };
    const row = make(
      'tr',
      { 'data-spawn': id },
      make('th', { scope: 'row', class: 'c-id' }, make('a', { href: addressOf({ spawn: id }), title: id }, codeOf(short(id))), parts.where),
      make('td', { class: 'c-phase' }, parts.chip),
      parts.age,
      parts.ping,
      make('td', { class: 'c-do' }, parts.log, parts.stop),
    );
    row.parts = parts;
    return row;
  }

  #fill(row, spawn) {
    const { parts } = row;
    const now = this.#snapshot.now();
    const over = spawn.state === 'exited';
    const kind = spawn.rendererType + (spawn.gpu === undefined ? '' : ` on GPU ${spawn.gpu}`);
    // What differs between spawns comes first. A viewer's URL is a secret, and on the spawn's own page.
    const about = [this.#node === undefined ? spawn.node : '', spawn.owner ?? '', ...pairsOf(spawn.tags), kind];
    const place = about.filter(Boolean).join(' · ');
    const where = over ? `${explainExit(spawn.exit)}, at ${clock(spawn.endedAt)}` : place;
    say(parts.where, where);
    set(parts.where, 'title', where);
    say(parts.chip, over ? 'ended' : spawn.state);
    set(parts.chip, 'title', VIEWER[spawn.viewer] ?? '');
    set(parts.chip, 'data-viewer', spawn.viewer ?? 'never');
    set(parts.chip, 'class', `chip ${over && BAD_ENDS.includes(spawn.exit?.reason) ? 'bad' : KIND[spawn.state]}`);
    const age = (over ? Date.parse(spawn.endedAt) : now) - Date.parse(spawn.startedAt);
    say(parts.age, brief(age));
    set(parts.age, 'title', `started ${clock(spawn.startedAt)}`);
    say(parts.ping, over || !spawn.lastPingAt ? '–' : brief(now - Date.parse(spawn.lastPingAt)));
    parts.stop.hidden = over || spawn.state === 'stopping';
    allow({ stop: parts.stop }, this.#orders.mayStop);
    set(row, 'class', over ? 'over' : false);
  }
}
