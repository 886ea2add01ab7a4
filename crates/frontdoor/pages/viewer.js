/** One viewer of the demo: its card, its steps from the call to the end, and what goes wrong between. */

import { explainExit, spawn, stop } from '../client.js';
import { connect } from './connection.js';
import { make, say, set } from './dom.js';
import { BAD_ENDS, explained, happened, millis, ordinal, span } from './words.js';

const STEPS = ['queued', 'starting', 'ready', 'connected', 'closed'];
const NAMES = {
  queued: 'Queued',
  starting: 'Starting',
  ready: 'Ready',
  connected: 'Connected',
  closed: 'Closed',
};

export class Viewer {
  card;
  /** Whether it has ended. */
  over = false;
  /** What the user asked for. */
  #request;
  #feed;
  #who;
  #changed;
  #steps = {};
  #chip = make('span', { class: 'chip calm', role: 'status' }, 'queued');
  #button = make('button', { type: 'button', class: 'small', onclick: () => this.close() }, 'Cancel');
  #place = make('div');
  #abort = new AbortController();
  #following;
  #connection;
  #answer;
  #began = performance.now();
  #timer;
  /** From the call to the answer, in milliseconds. */
  #took = 0;
  /** What the server has reported: `model`, `picture`, `simulator`. */
  #reports = {};

  /**
   * `request`: what to spawn, and `library` where there is one; `who` is the caller. `changed` is called when it has ended, and when
   * it is removed.
   */
  constructor(number, request, { feed, who }, changed) {
    this.#request = request;
    this.#feed = feed;
    this.#who = who;
    this.#changed = changed;
    const title = make('h3', {}, `Viewer ${number}`);
    const list = make('ol', { class: 'steps' });
    for (const step of STEPS) {
      const parts = {
        what: make('span', { class: 'what' }, NAMES[step]),
        took: make('span', { class: 'took' }),
        more: make('span', { class: 'more' }),
      };
      parts.item = make('li', { 'data-step': step }, parts.what, parts.took, parts.more);
      this.#steps[step] = parts;
      list.append(parts.item);
    }
    this.card = make(
      'article',
      { class: 'viewer panel', 'aria-label': `Viewer ${number}`, 'data-viewer': number },
      make('header', {}, title, this.#chip, this.#button),
      list,
      this.#place,
    );
    this.#run();
  }

  /** Ends it, however far it has come. */
  close() {
    if (this.over) {
      this.card.remove();
      this.#changed();
      return;
    }
    this.#abort.abort();
    this.#disconnect();
    if (!this.#answer) return;
    const { id } = this.#answer;
    this.#end('It was closed here.', 'done');
    stop(id, { token: this.#who.credential }).catch((error) => this.#fail(error));
  }

  async #run() {
    const { library, ...request } = this.#request;
    this.#at('queued', { more: 'Waiting for a slot on a node and for the server on it.' });
    this.#timer = setInterval(() => say(this.#steps.queued.took, span(this.#elapsed())), 100);
    try {
      this.#answer = await spawn({
        ...request,
        token: this.#who.credential,
        signal: this.#abort.signal,
        onProgress: (progress) => this.#progress(progress),
        onRetry: ({ error, delayMs }) => {
          const { title } = explained(error);
          say(this.#steps.queued.more, `${title}. Trying again in ${span(delayMs)}.`);
        },
      });
    } catch (error) {
      if (this.#abort.signal.aborted) this.#end('It was given up before it was ready.', 'done');
      else this.#fail(error);
      return;
    } finally {
      clearInterval(this.#timer);
    }
    const took = this.#elapsed();
    this.#took = took;
    const { endpoint, node, attempts } = this.#answer;
    this.card.dataset.spawn = this.#answer.id;
    this.#at('queued', { took: '', more: attempts > 1 ? `It took ${attempts} attempts.` : '' });
    this.#at('starting', { more: `On ${node}.` });
    this.#at('ready', { took: `${millis(took)} in all`, more: endpoint });
    say(this.#button, 'Close viewer');
    this.#follow();
    const began = performance.now();
    const report = (what, detail) => this.#report(what, detail, performance.now() - began);
    const { rendererType, sessionToken: token, model } = request;
    this.#connection = library
      ? stage(this.#place, { library, endpoint, rendererType, token, model }, report)
      : connect(endpoint, { rendererType, token, place: this.#place, report });
  }

  /** How far it has come, while it is not ready. */
  #progress({ state, position, estimateSeconds, node }) {
    if (state === 'queued') {
      const estimate = estimateSeconds === undefined ? '' : `, about ${span(Math.max(1, estimateSeconds) * 1000)} to go`;
      this.#at('queued', { more: `${ordinal(position)} in line${estimate}.` });
      say(this.#chip, `${ordinal(position)} in line`);
      set(this.#steps.starting.item, 'data-is', false);
      say(this.#steps.starting.more, '');
    } else {
      this.#at('starting', { more: `On ${node}.` });
    }
  }

  /** A server that is killed says nothing to its viewer; the farm does. */
  #follow() {
    this.#following = this.#feed.subscribe(`spawn:${this.#answer.id}`, {
      onSnapshot: (known) => {
        if (!known) return;
        if (known.readyAt) {
          const took = Date.parse(known.readyAt) - Date.parse(known.startedAt);
          say(this.#steps.starting.took, millis(took));
          say(this.#steps.queued.took, millis(Math.max(0, this.#took - took)));
        }
        if (known.exit) this.#gone(known.exit);
      },
      onEvent: (event) => {
        // That its viewer is connected is known here before.
        if (['spawn.ping', 'spawn.connected'].includes(event.kind)) return;
        if (event.kind === 'spawn.exited') this.#gone(event.exit);
        else if (!this.over) say(this.#steps.connected.more, `The server ${happened(event)}.`);
      },
    });
  }

  #report(what, detail, took) {
    // The farm may have said first why.
    if (this.over) return;
    const { item, more } = this.#steps.connected;
    const opened = item.dataset.is === 'done';
    if (what === 'open' && !opened) this.#at('connected', { took: millis(took), more: '' });
    if (what === 'model' || what === 'picture' || what === 'simulator') {
      this.#reports[what] = detail ?? true;
      say(more, this.#reported());
    }
    if (what === 'refused') {
      say(more, `The server refuses: ${detail}`);
      set(item, 'data-is', 'bad');
      say(this.#chip, 'refused');
      set(this.#chip, 'class', 'chip bad');
    }
    if (what === 'broken') this.#give(detail);
    if (what === 'closed' && !opened && item.dataset.is !== 'bad') {
      const { endpoint } = this.#answer;
      const advice =
        'The node must be reachable from this browser, or the front door be started with --public-url. A page that came by https can use wss:// only.';
      this.#give({ title: 'The server cannot be reached', advice, detail: `${endpoint} gives no connection.` });
    } else if (what === 'closed') {
      set(this.#steps.closed.item, 'data-is', 'now');
      say(this.#steps.closed.more, 'The connection is closed; asking the farm why…');
    }
  }

  #reported() {
    const { model, picture, simulator } = this.#reports;
    const client = this.#answer.rendererType !== 'ssr';
    return [
      model && 'The model is open.',
      simulator && 'This is the simulator, which has no models.',
      simulator && client && 'There is nothing to see in the browser: choose “On the server (ssr)” for a picture.',
      picture && `Pictures arrive, the last of ${picture.toLocaleString()} bytes.`,
    ]
      .filter(Boolean)
      .join(' ');
  }

  /** Gives the spawn back, because nothing can be shown of it, and says why. */
  #give(why) {
    const { id } = this.#answer;
    set(this.#steps.connected.item, 'data-is', 'bad');
    this.#end('The server was stopped: nothing connects to it.', 'done');
    say(this.#chip, 'failed');
    set(this.#chip, 'class', 'chip bad');
    this.#explain(why);
    stop(id, { token: this.#who.credential }).catch(() => {});
  }

  #gone(exit) {
    if (this.over) return;
    const bad = !exit || BAD_ENDS.includes(exit.reason);
    this.#end(`The server ended: ${explainExit(exit)}.`, bad ? 'bad' : 'done');
  }

  #at(step, { took, more }) {
    const index = STEPS.indexOf(step);
    STEPS.forEach((name, i) => {
      if (i < index) set(this.#steps[name].item, 'data-is', 'done');
    });
    const now = step === 'connected' ? 'done' : 'now';
    set(this.#steps[step].item, 'data-is', now);
    if (took !== undefined) say(this.#steps[step].took, took);
    if (more !== undefined) say(this.#steps[step].more, more);
    say(this.#chip, NAMES[step].toLowerCase());
    set(this.#chip, 'class', `chip ${step === 'connected' ? 'good' : 'calm'}`);
  }

  #end(text, is) {
    this.over = true;
    clearInterval(this.#timer);
    const { item, more } = this.#steps.closed;
    for (const name of STEPS) {
      if (this.#steps[name].item.dataset.is === 'now') set(this.#steps[name].item, 'data-is', 'done');
    }
    set(item, 'data-is', is);
    say(more, text);
    say(this.#chip, is === 'bad' ? 'ended' : 'closed');
    set(this.#chip, 'class', `chip ${is === 'bad' ? 'bad' : 'calm'}`);
    say(this.#button, 'Remove');
    this.#disconnect();
    this.#following?.unsubscribe();
    this.#changed();
  }

  #fail(error) {
    this.#who.judge(error, 'spawn');
    const { title, advice, detail, log, reference } = explained(error);
    const at = STEPS.find((name) => this.#steps[name].item.dataset.is === 'now') ?? 'closed';
    if (!this.over) this.#end('', 'bad');
    set(this.#steps.closed.item, 'data-is', at === 'closed' ? 'bad' : false);
    set(this.#steps[at].item, 'data-is', 'bad');
    say(this.#steps[at].more, '');
    say(this.#chip, 'failed');
    this.#explain({ title, advice, detail, log, reference });
  }

  #explain({ title, advice, detail, log, reference }) {
    this.#place.replaceChildren(
      make(
        'div',
        { class: 'failure', role: 'alert' },
        make('strong', {}, title),
        make('p', {}, advice),
        detail ? make('p', { class: 'sub' }, detail) : undefined,
        log ? make('pre', { tabindex: '0', 'aria-label': 'Last lines of the server' }, log) : undefined,
        reference ? make('p', { class: 'sub' }, make('code', {}, reference)) : undefined,
      ),
    );
  }

  #disconnect() {
    this.#connection?.close();
    this.#connection = undefined;
  }

  #elapsed() {
    return performance.now() - this.#began;
  }
}

/** The vendor's viewer in its frame. */
function stage(place, what, report) {
  const source = new URL('../demo/stage', import.meta.url);
  const frame = make('iframe', { src: source, title: 'Viewer', sandbox: 'allow-scripts allow-pointer-lock' });
  const listen = ({ source: from, data }) => {
    if (from !== frame.contentWindow) return;
    // It has no origin that one could name.
    if (data.what === 'here') frame.contentWindow.postMessage({ what: 'start', ...what }, '*');
    else report(data.what, data.detail);
  };
  addEventListener('message', listen);
  place.replaceChildren(frame);
  return {
    close: () => {
      removeEventListener('message', listen);
      frame.contentWindow?.postMessage({ what: 'close' }, '*');
      frame.remove();
    },
  };
}
