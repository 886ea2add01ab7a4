/** Counts of each minute of the last hour, as the farm has kept them: they begin before the page was opened. */

import { Again, ask } from './ask.js';
import { BAD_ENDS } from './words.js';

const EVERY_MS = 15_000;
const SPAN = 60;

export class Minutes {
  /** Oldest first; `undefined` until they are known. */
  list;
  #who;
  #isOpen;
  #changed;
  #again = new Again(() => this.load());

  /**
   * `isOpen()` says whether the front door is there; `changed(list, now)` is called with every answer, `now` being the farm's time
   * then.
   */
  constructor(who, isOpen, changed) {
    this.#who = who;
    this.#isOpen = isOpen;
    this.#changed = changed;
  }

  /** Asks now, and then again and again. */
  async load() {
    this.#again.begun();
    try {
      if (!document.hidden && this.#isOpen() && this.#who.may('read') && !this.#who.wanted) {
        const { minutes, now } = await ask(this.#who, `v1/history?minutes=${SPAN}`);
        this.list = minutes;
        this.#changed(minutes, Date.parse(now));
      }
    } catch {
      // The banner says what is the matter. A front door of the release before has no counts.
    }
    this.soon(EVERY_MS);
  }

  /** Asks again in a moment, or at the time that is due if that is earlier. */
  soon(ms) {
    this.#again.soon(ms);
  }

  /** Whether it is known what was started and what failed. Callers that do not operate the farm learn of slots alone. */
  get known() {
    return this.list !== undefined && this.#who.may('operate');
  }

  /** All of them together: `{started, failed, refused}`; `failed` and `refused` by reason and code. */
  get sum() {
    const sum = { started: 0, failed: new Map(), refused: new Map() };
    for (const { started = 0, ended = {}, refused = {} } of this.list ?? []) {
      sum.started += started;
      for (const reason of BAD_ENDS) add(sum.failed, reason, ended[reason]);
      for (const [code, number] of Object.entries(refused)) add(sum.refused, code, number);
    }
    return sum;
  }
}

function add(counts, name, number = 0) {
  if (number > 0) counts.set(name, (counts.get(name) ?? 0) + number);
}

/** How many of a minute's spawns failed. */
export function failedIn({ ended = {} }) {
  return BAD_ENDS.reduce((sum, reason) => sum + (ended[reason] ?? 0), 0);
}
