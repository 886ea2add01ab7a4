/** What operators ordered in the last day. Orders are no part of the live feed: they are asked for, again when a node's event shows one. */

import { Again, ask } from './ask.js';
import { addressOf } from './address.js';
import { byId, make, refill, say } from './dom.js';
import { brief, clock, short } from './words.js';

const EVERY_MS = 30_000;
const DAY_MS = 86_400_000;
const MOST = 100;

const ORDERS = {
  cordon: 'Cordon',
  uncordon: 'Uncordon',
  drain: 'Drain',
  forget: 'Forget',
  stop: 'Stop',
  'set-life': 'Set life of',
};
const OUTCOMES = { done: ['done', 'good'], unacknowledged: ['agent had not confirmed', 'warn'], refused: ['refused', 'bad'], unknown: ['not known whether it took hold', 'warn'] };

export class Audit {
  #who;
  #now;
  #isOpen;
  #again = new Again(() => this.#ask());

  /** `now()` is the farm's time; `isOpen()` says whether the front door is there. */
  constructor(who, now, isOpen) {
    this.#who = who;
    this.#now = now;
    this.#isOpen = isOpen;
    this.#ask();
  }

  /** Something happened that an operator may have ordered. */
  heard(event) {
    if (['node.cordoned', 'node.uncordoned', 'node.draining', 'node.forgotten', 'spawn.stopping'].includes(event.kind)) this.soon();
  }

  /** Asks again in a moment, or at the time that is due if that is earlier. */
  soon(ms) {
    this.#again.soon(ms);
  }

  async #ask() {
    this.#again.begun();
    const panel = byId('audit');
    const allowed = this.#who.may('operate') && !this.#who.wanted;
    panel.hidden = !allowed;
    try {
      if (allowed && this.#isOpen() && !document.hidden) this.#show(await ask(this.#who, `v1/audit?limit=${MOST}`));
    } catch (error) {
      // Callers that give no orders do not see them, and the banner says what else may be the matter.
      if (error.code === 'forbidden' || error.code === 'unauthenticated') panel.hidden = true;
    }
    this.soon(EVERY_MS);
  }

  #show({ audit, nextCursor }) {
    const since = this.#now() - DAY_MS;
    const recent = audit.filter(({ at }) => Date.parse(at) >= since);
    refill(byId('audit-frame').querySelector('tbody'), recent, () => recent.map((order) => row(order)));
    say(byId('audit-count'), nextCursor ? `the last ${recent.length}` : recent.length.toLocaleString());
    byId('audit-frame').hidden = recent.length === 0;
    say(byId('audit-empty'), 'No operator has ordered anything.');
    byId('audit-empty').hidden = recent.length > 0;
  }
}

function row({ at, order, node, spawn, by, from, outcome, code, reason, deadlineSeconds, maxSeconds }) {
  const target = spawn ? make('a', { href: addressOf({ spawn }), title: spawn }, short(spawn)) : (node ?? '–');
  const [word, kind] = OUTCOMES[outcome] ?? [outcome, 'calm'];
  const details = [
    deadlineSeconds === undefined ? '' : `within ${brief(deadlineSeconds * 1000)}`,
    maxSeconds === undefined ? '' : `to ${brief(maxSeconds * 1000)}`,
    reason ? `“${reason}”` : '',
    spawn && node ? `on ${node}` : '',
  ].filter(Boolean);
  const giver = [by, from].filter(Boolean).join(' from ') || 'not known';
  const what = details.length > 0 ? ` ${details.join(', ')}` : '';
  return make(
    'tr',
    {},
    make('td', { class: 'c-at' }, make('time', { datetime: at, title: at }, clock(at))),
    make('th', { scope: 'row', class: 'c-what', title: what }, `${ORDERS[order] ?? order} `, target, what),
    make('td', { class: 'c-by', title: giver }, giver),
    make('td', { class: 'c-outcome' }, make('span', { class: `chip ${kind}` }, code ? `${word}: ${code}` : word)),
  );
}
