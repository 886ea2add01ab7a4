/**
 * Who waits in line, for what, and since when. It is no part of the live feed, so it is asked for: every few seconds, the first hundred.
 * The panel is there only while a request waits.
 */

import { Again, ask } from './ask.js';
import { byId, make, refill, say } from './dom.js';
import { brief, pairsOf } from './words.js';

/** So often while requests wait, and while none does. */
const BUSY_MS = 2_000;
const QUIET_MS = 5_000;

export class Line {
  #who;
  #now;
  #isOpen;
  #waiting = [];
  #again = new Again(() => this.#ask());

  /** `now()` is the farm's time; `isOpen()` says whether the front door is there. */
  constructor(who, now, isOpen) {
    this.#who = who;
    this.#now = now;
    this.#isOpen = isOpen;
    this.#ask();
  }

  /** The times that pass. */
  render() {
    const rows = byId('line-frame').querySelectorAll('tbody tr');
    this.#waiting.forEach(({ since }, at) => {
      if (rows[at]) say(rows[at].cells[1], since ? brief(this.#now() - Date.parse(since)) : '–');
    });
  }

  /** Asks again in so many ms at the latest. */
  soon(ms) {
    this.#again.soon(ms);
  }

  async #ask() {
    this.#again.begun();
    try {
      if (!document.hidden && this.#isOpen() && this.#who.may('read')) this.#show(await ask(this.#who, 'v1/waiting'));
    } catch {
      // The banner says what is the matter. What was shown stays until the next answer.
    }
    this.soon(this.#waiting.length > 0 ? BUSY_MS : QUIET_MS);
  }

  #show({ waiting, total }) {
    this.#waiting = waiting;
    const panel = byId('line');
    const held = panel.contains(document.activeElement);
    refill(byId('line-frame').querySelector('tbody'), waiting, () => waiting.map((one) => row(one)));
    const left = total - waiting.length;
    say(byId('line-count'), left > 0 ? `${total.toLocaleString()}, the first ${waiting.length} are shown` : total.toLocaleString());
    panel.hidden = total === 0;
    // A panel that goes takes the focus with it.
    if (panel.hidden && held) byId('nodes-title').focus({ preventScroll: true });
    this.render();
  }
}

function row({ position, rendererType, pool, labels, owner }) {
  const wants = [rendererType, pool && `pool ${pool}`, ...pairsOf(labels)];
  const text = wants.filter(Boolean).join(', ') || 'not known';
  return make(
    'tr',
    {},
    make('th', { scope: 'row', class: 'c-position' }, position.toLocaleString()),
    make('td', { class: 'c-waits' }),
    make('td', { class: 'c-wants', title: text }, text),
    make('td', { class: 'c-owner', title: owner }, owner ?? '–'),
  );
}
