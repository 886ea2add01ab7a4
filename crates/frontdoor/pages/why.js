/**
 * "Why?": asks the front door where a spawn would be placed and why, and why not on each other node. Nothing is started. The answer is as
 * of the moment it was asked for; the feed does not change it.
 */

import { ask } from './ask.js';
import { byId, make, say } from './dom.js';
import { count, explained } from './words.js';

/** How a verdict is coloured. */
const KINDS = {
  chosen: 'good',
  equal: 'calm',
  outranked: 'calm',
  full: 'full',
  'gpu full': 'full',
  failing: 'bad',
  down: 'bad',
  unreachable: 'bad',
};

export class Why {
  #who;
  /** The question that is asked; what an earlier one brings comes too late. */
  #asking;

  constructor(who) {
    this.#who = who;
    byId('why-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#ask();
    });
  }

  async #ask() {
    const asking = {};
    this.#asking = asking;
    const labels = wanted(byId('why-labels').value);
    if (labels === undefined) {
      this.#clear('A label is written name=value; several have commas between them.');
      byId('why-labels').focus();
      return;
    }
    const pool = byId('why-pool').value.trim();
    const body = { rendererType: byId('why-renderer').value, labels, ...(pool && { pool }) };
    try {
      const answer = await ask(this.#who, 'v1/explain', body);
      if (asking === this.#asking) this.#show(answer);
    } catch (error) {
      this.#who.judge(error);
      const { title, detail } = explained(error);
      if (asking === this.#asking) this.#clear(`${title}: ${detail}`);
    }
  }

  #show({ chosen, why, code, reasons, nodes, unlisted, source }) {
    const said = chosen ? `${chosen} would be chosen: ${why}.` : `No node would be chosen: ${why}${code ? ` (${code})` : ''}.`;
    const old = source === 'snapshot' ? ' The registry is away: this is what the front door knew before.' : '';
    const more = unlisted > 0 && nodes.length > 0 ? ` ${count(unlisted, 'node')} more ${unlisted === 1 ? 'is' : 'are'} not listed.` : '';
    say(byId('why-said'), `${said}${old}${more}`);
    const sorted = Object.entries(reasons).sort(([, a], [, b]) => b - a);
    byId('why-counts').hidden = sorted.length === 0;
    byId('why-counts').replaceChildren(...sorted.map(([reason, number]) => chip(reason, `${number.toLocaleString()} ${reason}`)));
    byId('why-frame').hidden = nodes.length === 0;
    byId('why-frame').querySelector('tbody').replaceChildren(...nodes.map(row));
    byId('why-frame').scrollTop = 0;
  }

  #clear(text) {
    say(byId('why-said'), text);
    byId('why-counts').hidden = byId('why-frame').hidden = true;
  }
}

function row({ node, verdict, why }) {
  return make(
    'tr',
    {},
    make('th', { scope: 'row', class: 'c-name' }, node),
    make('td', { class: 'c-verdict' }, chip(verdict, verdict)),
    make('td', { class: 'c-why' }, why),
  );
}

function chip(verdict, text) {
  return make('span', { class: `chip ${KINDS[verdict] ?? 'warn'}` }, text);
}

/** The labels of a text such as `sdk=2025.1, zone=a`; `undefined` when it is none. */
function wanted(text) {
  const labels = {};
  for (const part of text.split(',').map((one) => one.trim())) {
    if (part === '') continue;
    const at = part.indexOf('=');
    if (at < 1) return undefined;
    labels[part.slice(0, at).trim()] = part.slice(at + 1).trim();
  }
  return labels;
}
