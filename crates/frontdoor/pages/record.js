/**
 * The page of one spawn, at an address of its own (`#spawn=ID`): what it is, what became of it and when, why it ended, and what its
 * server wrote last. It is asked for when it is opened, and again when the feed has news of the spawn.
 */

import { explainExit } from '../client.js';
import { addressOf, shown } from './address.js';
import { ask, askText } from './ask.js';
import { byId, make, refill, say } from './dom.js';
import { BAD_ENDS, clock, explained, happened, millis, pairsOf, short, span } from './words.js';

/** Lines of the log. */
const LINES = 60;
const VIEWER = { connected: 'connected', gone: 'was here, has left', never: 'none has connected' };

export class Record {
  #who;
  #id;
  #timer;
  /** Whether the last answer was none. */
  #failed = false;
  #title = document.title;

  constructor(who) {
    this.#who = who;
    byId('record-refresh').addEventListener('click', () => this.#load());
  }

  /** Shows what the address asks for; whether that is a spawn. */
  follow() {
    const id = shown().get('spawn') ?? undefined;
    if (id === this.#id) return id !== undefined;
    this.#id = id;
    byId('farm').hidden = id !== undefined;
    byId('record').hidden = id === undefined;
    document.title = id === undefined ? this.#title : `${short(id)} · ${this.#title}`;
    if (id === undefined) {
      byId('nodes-title').focus({ preventScroll: true });
      return false;
    }
    say(byId('record-title'), `Spawn ${short(id)}`);
    const events = byId('record-frame').querySelector('tbody');
    for (const part of [byId('record-state'), byId('record-facts'), byId('record-phases'), events]) refill(part, [], () => []);
    say(byId('record-log'), '');
    scrollTo(0, 0);
    byId('record-title').focus({ preventScroll: true });
    this.#load();
    return true;
  }

  /** The user has other rights now: what was refused may be there. */
  again() {
    if (this.#id !== undefined && this.#failed && !this.#who.wanted) this.#load();
  }

  /** Asks again in a moment if this is about the spawn. */
  heard(event) {
    if (this.#id === undefined || event.spawn !== this.#id) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), 300);
  }

  async #load() {
    const id = this.#id;
    const path = `v1/spawns/${encodeURIComponent(id)}`;
    const [spawn, log] = await Promise.allSettled([ask(this.#who, path), askText(this.#who, `${path}/log?lines=${LINES}`)]);
    if (id !== this.#id) return;
    this.#failed = spawn.status === 'rejected';
    if (spawn.status === 'rejected') {
      this.#who.judge(spawn.reason);
      const { title, detail } = explained(spawn.reason);
      say(byId('record-said'), `${title}: ${detail}`);
      return;
    }
    say(byId('record-said'), `As of ${clock(Date.now())}.`);
    this.#show(spawn.value);
    const problem = log.status === 'rejected' ? explained(log.reason) : undefined;
    say(byId('record-log'), problem ? `${problem.title}: ${problem.detail}` : log.value.trimEnd() || 'It has not written anything.');
  }

  #show(spawn) {
    const over = spawn.state === 'exited';
    const bad = spawn.state === 'lost' || BAD_ENDS.includes(spawn.exit?.reason);
    const word = over ? `ended: ${spawn.exit?.reason}` : spawn.state;
    refill(byId('record-state'), [spawn.state, spawn.exit], () => [
      make('span', { class: `chip ${bad ? 'bad' : over ? 'calm' : 'good'}` }, word),
      over ? ` ${sentence(explainExit(spawn.exit))}` : '',
    ]);
    const facts = [
      ['Id', make('code', {}, spawn.id)],
      ['Node', make('a', { href: addressOf({ node: spawn.node }) }, spawn.node)],
      ['Renderer', spawn.rendererType + (spawn.gpu === undefined ? '' : ` on GPU ${spawn.gpu}`)],
      ['Warm server', spawn.serverId && make('code', {}, spawn.serverId)],
      ['Whose', spawn.owner],
      ['Tags', pairsOf(spawn.tags).join(', ')],
      ['Labels asked for', pairsOf(spawn.labels).join(', ')],
      ['Pool', spawn.pool],
      ['Viewer', VIEWER[spawn.viewer]],
      ['Last ping', spawn.lastPingAt && clock(spawn.lastPingAt)],
      ['Ends at the latest', spawn.expiresAt && clock(spawn.expiresAt)],
      ['Exit code', spawn.exit?.code?.toString()],
      ['Signal', spawn.exit?.signal],
      ['Request id', spawn.requestId],
      ['Trace id', spawn.traceId],
      ['Endpoint', spawn.endpoint && make('code', {}, spawn.endpoint)],
    ];
    const known = facts.filter(([, value]) => value);
    const texts = known.map(([name, value]) => [name, value.textContent ?? value]);
    refill(byId('record-facts'), texts, () => known.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value))));
    const past = phases(spawn);
    refill(byId('record-phases'), past, () => past.map((text) => make('li', {}, text)));
    const [events, began] = [spawn.events ?? [], Date.parse(spawn.startedAt)];
    refill(byId('record-frame').querySelector('tbody'), [began, events], () => events.map((event) => row(event, began, spawn.viewer)));
  }
}

/** How far it came, and how long each part took. */
function phases({ phases: before, startedAt, readyAt, connectedAt, disconnectedAt, endedAt }) {
  const since = (from, to) => millis(Math.max(0, Date.parse(to) - Date.parse(from)));
  const long = (from, to) => spanned(Date.parse(to) - Date.parse(from));
  return [
    before?.waitedMs && `In line for ${millis(before.waitedMs)}`,
    before && `slot reserved ${millis(before.reservedMs)} after it was asked for`,
    `started at ${clock(startedAt)}`,
    readyAt ? `ready after ${since(startedAt, readyAt)}` : endedAt && 'never ready',
    connectedAt && `a viewer came ${since(readyAt ?? startedAt, connectedAt)} later`,
    connectedAt && disconnectedAt && `and left after ${long(connectedAt, disconnectedAt)}`,
    endedAt && `ended at ${clock(endedAt)}, ${long(startedAt, endedAt)} after the start`,
  ].filter(Boolean);
}

function spanned(ms) {
  return ms < 10_000 ? millis(Math.max(0, ms)) : span(ms);
}

function row(event, began, viewer) {
  // A server reports a disconnect when its viewer leaves, and also when it ends without ever having had one.
  const unused = event.kind === 'spawn.disconnected' && viewer === 'never';
  const text = unused ? 'reported a disconnect, and had no viewer' : happened(event);
  return make(
    'tr',
    {},
    make('td', { class: 'c-at' }, make('time', { datetime: event.at, title: event.at }, clock(event.at))),
    make('td', { class: 'c-age' }, `+${millis(Math.max(0, Date.parse(event.at) - began))}`),
    make('th', { scope: 'row', class: 'c-what', title: text }, sentence(text)),
  );
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
