/**
 * The credential of this page's user. Where the front door authenticates callers, a box asks for an API key or a token. It is kept
 * for this tab alone, until the tab is closed or the user signs out. Elsewhere the box never appears.
 */

import { make, say, set } from './dom.js';

const PLACE = 'hatchery.credential';

export class SignIn {
  #text = recall();
  /** Whether the front door asks for a credential, and there is none yet. */
  #wanted = false;
  /** Resolvers of those that wait for the credential. */
  #waiting = [];
  #feed;
  #changed;
  #limits;
  #caller;
  /** Scopes that are known to be missing. */
  #missing = new Set();
  #name = make('span', { class: 'sub' });
  #button = make('button', { type: 'button', class: 'small', onclick: () => (this.#text ? this.#out() : this.#open()) });
  #place = make('div', { class: 'who', hidden: true }, this.#name, this.#button);
  #may = make('p', { class: 'may', id: 'may', role: 'status', hidden: true });
  #field = make('input', {
    id: 'signin-text',
    type: 'password',
    autocomplete: 'off',
    autocapitalize: 'none',
    spellcheck: 'false',
    required: true,
    'aria-describedby': 'signin-hint',
  });
  #problem = make('p', { class: 'error', id: 'signin-error', role: 'alert', hidden: true });
  #go = make('button', { type: 'submit', class: 'main', id: 'signin-go' }, 'Sign in');
  #box;

  /** `changed()` is called when the user's rights have changed; `limits(may)` says in words what they lack, if anything. */
  constructor({ changed = () => {}, limits }) {
    this.#changed = changed;
    this.#limits = limits;
    this.#box = make(
      'dialog',
      { id: 'signin-dialog', 'aria-labelledby': 'signin-title' },
      make(
        'form',
        { method: 'dialog', onsubmit: (event) => (event.preventDefault(), this.#in()) },
        make('h2', { id: 'signin-title' }, 'Sign in'),
        make('p', {}, 'This farm wants to know who uses it.'),
        make('div', { class: 'fields' }, make('label', { for: 'signin-text' }, 'API key or token'), this.#field),
        make(
          'p',
          { class: 'sub', id: 'signin-hint' },
          'It is kept for this tab alone, until the tab is closed or you sign out, and goes to this front door and nowhere else. The operator of the farm makes one with “hatchery key new”.',
        ),
        this.#problem,
        make(
          'div',
          { class: 'buttons' },
          make('button', { type: 'button', onclick: () => this.#box.close() }, 'Not now'),
          this.#go,
        ),
      ),
    );
    document.querySelector('.top nav').before(this.#place);
    document.querySelector('main').before(this.#may);
    document.body.append(this.#box);
  }

  /** The credential for the live feed; pending until the user has signed in. */
  token = () => {
    if (this.#text !== undefined || !this.#wanted) return this.#text;
    return new Promise((resolve) => this.#waiting.push(resolve));
  };

  /** The credential for calls, if there is one. */
  get credential() {
    return this.#text;
  }

  /** The same as headers. */
  get headers() {
    return this.#text === undefined ? {} : { authorization: `Bearer ${this.#text}` };
  }

  /** Whether the user has to sign in. */
  get wanted() {
    return this.#wanted && this.#text === undefined;
  }

  /** Whether the user has this scope, as far as is known. */
  may(scope) {
    if (this.#missing.has(scope)) return false;
    const { scopes } = this.#caller ?? {};
    return !scopes || scopes.includes(scope) || (scope === 'read' && scopes.includes('operate'));
  }

  /** Learns the caller and its scopes from a feed. */
  follow(feed) {
    this.#feed = feed;
    feed.addEventListener('refused', ({ detail }) => this.judge(detail));
    feed.addEventListener('state', ({ detail }) => {
      if (detail.state === 'open' && this.#text !== undefined) this.#accepted(detail.caller);
      if (detail.state === 'waiting' && this.#box.open && this.#go.disabled) {
        this.#complain('The front door cannot be reached. Trying again…');
      }
      this.#show();
    });
    this.#show();
  }

  /** Learns from what went wrong: who is not known signs in, who may not do it hears why. */
  judge(error, scope) {
    if (error?.code === 'unauthenticated' || error?.status === 401) this.#refused();
    else if ((error?.code === 'forbidden' || error?.status === 403) && scope) {
      this.#missing.add(scope);
      this.#show();
      this.#changed();
    }
  }

  #in() {
    const text = this.#field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(text)) {
      this.#complain('That is no key and no token: one has neither spaces nor lines.');
      return;
    }
    this.#text = text;
    this.#problem.hidden = true;
    this.#go.disabled = true;
    say(this.#go, 'Signing in…');
    for (const resolve of this.#waiting.splice(0)) resolve(text);
    // A connection that was made without it, or waits, would end with a refusal of its own.
    this.#feed?.renew();
  }

  #accepted(caller) {
    // Only what is accepted is kept.
    keep(this.#text);
    this.#wanted = false;
    this.#caller = caller;
    this.#missing.clear();
    this.#field.value = '';
    this.#ready();
    this.#box.close();
    this.#changed();
  }

  #refused() {
    const had = this.#text !== undefined;
    this.#text = undefined;
    this.#caller = undefined;
    this.#wanted = true;
    keep(undefined);
    this.#ready();
    this.#open();
    if (had) this.#complain('That is not accepted: it is no key and no token of this farm, or it has expired.');
    this.#show();
    this.#changed();
  }

  /** The page shows what this user may see, so it is loaded anew. */
  #out() {
    keep(undefined);
    location.reload();
  }

  #open() {
    if (!this.#box.open) this.#box.showModal();
    this.#field.focus();
    this.#field.select();
  }

  #ready() {
    this.#problem.hidden = true;
    this.#go.disabled = false;
    say(this.#go, 'Sign in');
  }

  #complain(text) {
    say(this.#problem, text);
    this.#problem.hidden = false;
  }

  #show() {
    const signedIn = this.#text !== undefined && !this.#go.disabled;
    this.#place.hidden = !signedIn && !this.wanted;
    say(this.#button, signedIn ? 'Sign out' : 'Sign in');
    say(this.#name, signedIn ? (this.#caller?.owner ?? '') : '');
    set(this.#name, 'title', this.#caller?.scopes && `may: ${this.#caller.scopes.join(', ')}`);
    const text = this.wanted ? '' : this.#limits((scope) => this.may(scope));
    say(this.#may, text);
    this.#may.hidden = text === '';
  }
}

/** Storage may be switched off; then it is forgotten with the page. */
function recall() {
  try {
    return sessionStorage.getItem(PLACE) ?? undefined;
  } catch {
    return undefined;
  }
}

function keep(text) {
  try {
    if (text === undefined) sessionStorage.removeItem(PLACE);
    else sessionStorage.setItem(PLACE, text);
  } catch {
    // See above.
  }
}
