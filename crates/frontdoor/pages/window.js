/**
 * A table of any length of which only the rows in sight exist.
 *
 * Rows are kept by key: what is in sight before and after a change is the same element, so focus and selection stay. When
 * the row with the focus goes out of sight for good, the focus goes to the table's frame and not to nowhere.
 */

import { make } from './dom.js';

/** Rows kept beyond either edge, so that the Tab key always finds the next one. */
const MARGIN = 8;

export class Windowed {
  #frame;
  #body;
  #table;
  #above = make('tr', { class: 'gap', 'aria-hidden': 'true' }, make('td'));
  #below = make('tr', { class: 'gap', 'aria-hidden': 'true' }, make('td'));
  #rows = new Map();
  #items = [];
  #keyOf;
  #create;
  #update;
  #height = 0;

  /** `create(key)` makes a row; `update(row, item)` fills it, also again. */
  constructor(frame, { key, create, update }) {
    this.#frame = frame;
    this.#table = frame.querySelector('table');
    this.#body = frame.querySelector('tbody');
    this.#keyOf = key;
    this.#create = create;
    this.#update = update;
    this.#body.replaceChildren(this.#above, this.#below);
    frame.addEventListener('scroll', () => this.draw(), { passive: true });
    new ResizeObserver(() => {
      this.#height = 0;
      this.draw();
    }).observe(frame);
  }

  /** Shows these. */
  show(items) {
    this.#items = items;
    this.draw();
  }

  /** Brings an item into sight. */
  reveal(key) {
    const index = this.#items.findIndex((item) => this.#keyOf(item) === key);
    if (index < 0) return;
    const top = index * this.#rowHeight();
    const seen = this.#frame.clientHeight - this.#head();
    if (top < this.#frame.scrollTop) this.#frame.scrollTop = top;
    else if (top + this.#rowHeight() > this.#frame.scrollTop + seen) {
      this.#frame.scrollTop = top + this.#rowHeight() - seen;
    }
    this.draw();
  }

  /** The row of an item, if it is in sight. */
  row(key) {
    return this.#rows.get(key);
  }

  draw() {
    const height = this.#rowHeight();
    const first = Math.max(0, Math.floor(this.#frame.scrollTop / height) - MARGIN);
    const last = Math.min(
      this.#items.length,
      Math.ceil((this.#frame.scrollTop + this.#frame.clientHeight) / height) + MARGIN,
    );
    this.#table.setAttribute('aria-rowcount', String(this.#items.length + 1));
    const wanted = new Set();
    const focused = this.#body.contains(document.activeElement) ? document.activeElement : undefined;
    for (let index = first; index < last; index += 1) wanted.add(this.#keyOf(this.#items[index]));
    for (const [key, row] of this.#rows) {
      if (wanted.has(key)) continue;
      if (row.contains(document.activeElement)) this.#frame.focus({ preventScroll: true });
      row.remove();
      this.#rows.delete(key);
    }
    let before = this.#above;
    for (let index = first; index < last; index += 1) {
      const item = this.#items[index];
      const key = this.#keyOf(item);
      let row = this.#rows.get(key);
      if (!row) {
        row = this.#create(key);
        this.#rows.set(key, row);
      }
      // Only what is out of place is moved: it is work, and takes the focus away.
      if (before.nextSibling !== row) before.after(row);
      row.setAttribute('aria-rowindex', String(index + 2));
      this.#update(row, item);
      before = row;
    }
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
    gap(this.#above, first * height);
    gap(this.#below, Math.max(0, this.#items.length - last) * height);
  }

  #rowHeight() {
    if (this.#height === 0) {
      this.#height = parseFloat(getComputedStyle(this.#frame).getPropertyValue('--row')) || 44;
    }
    return this.#height;
  }

  #head() {
    return this.#table.tHead?.offsetHeight ?? 0;
  }
}

function gap(row, height) {
  row.hidden = height === 0;
  row.firstChild.style.height = `${height}px`;
}
