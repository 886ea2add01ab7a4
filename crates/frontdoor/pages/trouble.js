/** The banner: says when what is shown is old, or when the farm does without its registry. */

import { byId, make } from './dom.js';
import { healthWords } from './nodes.js';
import { clock, count, showState, span } from './words.js';

/** What stands in place of “Live” while the feed is open but brings nothing new. */
const NOT_LIVE = { gone: 'Front door away', degraded: 'Registry away', refusing: 'Registry away' };
/** Failing nodes that are named in the banner. */
const MAX_NAMED = 3;
const CALM_MS = 5_000;
const WORRIED_MS = 1_000;

/** `every node`, or `every node of pool gpu`: as `FarmCause::nodes` of the model has it. */
function nodesOf({ concerns = [] }) {
  const words = concerns.map(({ pool, labels = {} }) =>
    [...(pool ? [`of pool ${pool}`] : []), ...Object.entries(labels).map(([key, value]) => `with ${key}=${value}`)].join(' '));
  if (words.length === 0 || words.includes('')) return 'every node';
  return `every node ${[...new Set(words)].sort().join(', ')}`;
}

export class Trouble {
  #feed;
  #who;
  #farm;
  #changed;
  #place = byId('trouble');
  #ready = { state: 'ready' };
  /** When the feed was last known to be whole. */
  #whole;
  #key = '';
  #timer;

  /** `farm()` gives the nodes that fail and the cause they have in common, if any; `changed()` is called when the banner changes. */
  constructor(feed, who, farm, changed) {
    this.#feed = feed;
    this.#farm = farm;
    this.#who = who;
    this.#changed = changed;
    feed.addEventListener('state', ({ detail }) => {
      if (detail.state === 'waiting') this.#probe();
      this.render();
    });
    this.#probe();
  }

  /** The feed is up to date. */
  whole() {
    const first = this.#whole === undefined;
    this.#whole = Date.now();
    if (first) this.render();
  }

  get cut() {
    return this.#feed.state.state !== 'open';
  }

  render() {
    const said = this.#said();
    const pill = byId('connection');
    const state = this.#feed.state;
    showState(pill, state.state, this.#who, NOT_LIVE[this.#ready.state]);
    document.body.classList.toggle('old', this.cut && this.#whole !== undefined);
    // The same trouble is not announced again each second.
    const key = said.map(({ title, text }) => title + text).join();
    if (key === this.#key) return;
    this.#key = key;
    this.#place.hidden = said.length === 0;
    this.#place.replaceChildren(
      ...said.map(({ title, text, kind }) => make('p', { class: kind }, make('strong', {}, title), ' ', text)),
    );
    this.#changed?.();
  }

  #said() {
    const said = [];
    const state = this.#feed.state;
    const shown = this.#whole ? `What you see is how it was at ${clock(this.#whole)}.` : 'Nothing has been heard yet.';
    if (this.#ready.state === 'gone') {
      said.push({ kind: 'bad', title: 'The front door cannot be reached.', text: `${shown} Trying again all the time; running spawns are not affected.` });
    } else if (this.#who.wanted) {
      said.push({ kind: 'warn', title: 'Nobody is signed in.', text: `The front door shows the farm only to those it knows. ${shown}` });
    } else if (this.cut && (state.attempts > 0 || this.#whole)) {
      const why = state.reason ? ` (${state.reason})` : '';
      said.push({ kind: 'bad', title: 'The live feed is cut.', text: `${shown} Connecting again${why}.` });
    }
    if (this.#ready.state === 'degraded') {
      const since = this.#ready.since ? ` since ${clock(this.#ready.since)}` : '';
      said.push({
        kind: 'warn',
        title: `The registry is away${since}.`,
        text: 'Running spawns go on, and new ones are placed from the last snapshot of the farm. Orders to nodes must wait.',
      });
    }
    if (this.#ready.state === 'refusing') {
      said.push({ kind: 'bad', title: `${this.#ready.title}.`, text: `${this.#ready.detail}. Spawns are refused for now; running ones go on.` });
    }
    const { failing, cause } = this.#farm();
    if (cause) {
      said.push({
        kind: 'bad',
        title: `Starts fail on ${nodesOf(cause)} alike since ${clock(cause.since)}: ${cause.reason}.`,
        text: 'No node is at fault, and none is left out. The farm goes on trying.',
      });
    } else if (failing.length > 0) {
      const named = failing.slice(0, MAX_NAMED).map((node) => `${node.id} (${healthWords(node.health)})`);
      const more = failing.length > MAX_NAMED ? ` and ${failing.length - MAX_NAMED} more` : '';
      said.push({
        kind: 'warn',
        title: `Starts fail on ${count(failing.length, 'node')}:`,
        text: `${named.join('; ')}${more}. Each is tried now and then, and used again once starts succeed.`,
      });
    }
    return said;
  }

  async #probe() {
    clearTimeout(this.#timer);
    this.#ready = await readiness();
    const calm = this.#ready.state === 'ready' && !this.cut;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#probe(), calm ? CALM_MS : WORRIED_MS);
    this.render();
  }
}

async function readiness() {
  try {
    const response = await fetch(new URL('../readyz', import.meta.url), {
      cache: 'no-store',
      signal: AbortSignal.timeout(4_000),
    });
    const said = await response.json();
    const registry = said.dependencies?.registry ?? {};
    if (response.ok) return { state: said.status, since: registry.since, detail: registry.detail };
    return { state: 'refusing', title: said.title ?? `The front door answers ${response.status}`, detail: said.detail ?? '' };
  } catch {
    return { state: 'gone' };
  }
}

/** How long the page was without the feed, in words. */
export function absence(ms) {
  return ms < 2_000 ? 'a moment' : span(ms);
}
