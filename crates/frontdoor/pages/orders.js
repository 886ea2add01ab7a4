/** What an operator can ask for, with a question before what cannot be undone, and a word on what came of it. */

import { stop } from '../client.js';
import { ask, askText } from './ask.js';
import { byId, say, notify } from './dom.js';
import { clock, count, explained, short } from './words.js';

export class Orders {
  #snapshot;
  #who;
  #node;
  #spawn;
  /** The reading of a log that is under way; what an earlier one brings comes too late. */
  #reading;

  constructor(snapshot, who) {
    this.#snapshot = snapshot;
    this.#who = who;
    for (const button of document.querySelectorAll('dialog [data-close]')) {
      button.addEventListener('click', () => button.closest('dialog').close());
    }
    byId('drain-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#drainNow();
    });
    byId('stop-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#stopNow();
    });
    byId('drain-force').addEventListener('change', ({ target }) => {
      byId('drain-amount').disabled = byId('drain-unit').disabled = target.checked;
    });
    byId('log-refresh').addEventListener('click', () => this.#readLog());
    byId('log-lines').addEventListener('change', () => this.#readLog());
  }

  /** Whether nodes may be cordoned and drained, as far as is known. */
  get mayOperate() {
    return this.#who.may('operate');
  }

  /** Whether spawns that are seen may be stopped. */
  get mayStop() {
    return this.#who.may('spawn') || this.#who.may('operate');
  }

  /** Whether nodes may be looked at. */
  get mayLook() {
    return this.#who.may('read');
  }

  async cordon(node) {
    await this.#tried(`Cordon ${node}`, async () => {
      const { remaining, ...answer } = await this.#order(node, 'cordon');
      const stay = remaining > 0 ? ` ${count(remaining, 'spawn')} there ${remaining === 1 ? 'stays' : 'stay'}.` : '';
      notify(`${node} is closed to new spawns.${stay}${unconfirmed(answer)}`);
    });
  }

  async uncordon(node) {
    await this.#tried(`Uncordon ${node}`, async () => {
      notify(`${node} is open again.${unconfirmed(await this.#order(node, 'uncordon'))}`);
    });
  }

  /** Asks how, then drains. */
  drain(node) {
    this.#node = node;
    const known = this.#snapshot.nodes.get(node);
    const runs = known ? this.#snapshot.used(known) : 0;
    const begun = known?.eligibility === 'draining' ? ' This replaces the drain that is under way.' : '';
    const now = runs === 0 ? 'Nothing runs there now.' : `${count(runs, 'spawn')} ${runs === 1 ? 'runs' : 'run'} there now.`;
    say(byId('drain-title'), `Drain ${node}`);
    say(byId('drain-what'), `Nothing new starts there from now on. ${now}${begun}`);
    say(byId('drain-go'), `Drain ${node}`);
    byId('drain-form').reset();
    byId('drain-amount').disabled = byId('drain-unit').disabled = false;
    byId('drain-error').hidden = true;
    byId('drain-dialog').showModal();
    byId('drain-amount').select();
  }

  /** Asks first, then stops. */
  stop(id) {
    this.#spawn = id;
    const spawn = this.#snapshot.spawns.get(id);
    say(byId('stop-title'), `Stop ${short(id)}`);
    say(byId('stop-what'), `Its server on ${spawn?.node ?? 'its node'} is ended, and its viewer is disconnected.`);
    byId('stop-error').hidden = true;
    byId('stop-dialog').showModal();
  }

  /** Shows what a spawn wrote. */
  log(id) {
    this.#spawn = id;
    say(byId('log-title'), `Log of ${short(id)}`);
    say(byId('log-text'), '');
    byId('log-dialog').showModal();
    this.#readLog();
  }

  async #drainNow() {
    const [node, force] = [this.#node, byId('drain-force').checked];
    const reason = byId('drain-reason').value.trim();
    const seconds = Number(byId('drain-amount').value) * Number(byId('drain-unit').value);
    const body = { ...(force ? { force } : { deadlineSeconds: Math.round(seconds) }), ...(reason && { reason }) };
    await this.#asked('drain', 'operate', async () => {
      const answer = await this.#order(node, 'drain', body);
      const left =
        answer.remaining === 0
          ? 'Nothing runs there.'
          : `${count(answer.remaining, 'spawn')} left, until ${clock(answer.deadline)} at the latest.`;
      notify(`${node} takes no new spawns. ${left}${unconfirmed(answer)}`);
    });
  }

  async #stopNow() {
    const id = this.#spawn;
    await this.#asked('stop', undefined, async () => {
      const spawn = await stop(id, { deadlineMs: 10_000, token: this.#who.credential });
      notify(spawn.state === 'exited' ? `${short(id)} had ended already.` : `${short(id)} is being stopped.`);
    });
  }

  async #readLog() {
    const [id, said, text] = [this.#spawn, byId('log-said'), byId('log-text')];
    const reading = {};
    this.#reading = reading;
    say(said, 'Reading…');
    try {
      const lines = byId('log-lines').value;
      const body = await askText(this.#who, `v1/spawns/${id}/log?lines=${lines}`);
      if (reading !== this.#reading) return;
      say(text, body);
      text.scrollTop = text.scrollHeight;
      say(said, body ? `As of ${clock(Date.now())}` : `It has not written anything, as of ${clock(Date.now())}`);
    } catch (error) {
      this.#who.judge(error);
      const { title, detail } = explained(error);
      if (reading === this.#reading) say(said, `${title}: ${detail}`);
    }
  }

  async #tried(what, work) {
    try {
      await work();
    } catch (error) {
      this.#who.judge(error, 'operate');
      const { title, detail } = explained(error);
      notify(`${what}: ${title}. ${detail}`, 'bad');
    }
  }

  /** Does the work of an open dialog: closes it when it went well, says in it what went wrong. */
  async #asked(name, scope, work) {
    const [dialog, button, problemPlace] = [byId(`${name}-dialog`), byId(`${name}-go`), byId(`${name}-error`)];
    button.disabled = true;
    problemPlace.hidden = true;
    try {
      await work();
      dialog.close();
      // What opened it may make no sense any more.
      if (document.activeElement === document.body) byId('detail-title').focus({ preventScroll: true });
    } catch (error) {
      this.#who.judge(error, scope);
      const { title, detail } = explained(error);
      say(problemPlace, `${title}: ${detail}`);
      problemPlace.hidden = false;
    } finally {
      button.disabled = false;
    }
  }

  /** Gives an order to a node; the answer of the front door. */
  #order(node, what, body = {}) {
    return ask(this.#who, `v1/nodes/${encodeURIComponent(node)}/${what}`, what === 'drain' ? body : {});
  }
}

function unconfirmed({ agentAcknowledged }) {
  return agentAcknowledged === false ? ' Its agent has not confirmed it yet; it learns it as soon as it reports.' : '';
}
