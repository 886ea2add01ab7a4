/** Calls the front door as the page's user, for JSON or text, and again after a time. */

import { ProblemError } from '../client.js';

const TIMEOUT_MS = 15_000;

/** The answer as text; throws what the front door says is wrong. A call with a body, which is sent as JSON, is a POST. */
export async function askText(who, path, body) {
  const response = await fetch(new URL(`../${path}`, import.meta.url), {
    ...(body && { method: 'POST', body: JSON.stringify(body) }),
    headers: { ...(body && { 'content-type': 'application/json' }), ...who.headers },
    cache: 'no-store',
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const text = await response.text();
  if (!response.ok) throw problem(response, text);
  return text;
}

/** The same as JSON. */
export async function ask(who, path, body) {
  return JSON.parse(await askText(who, path, body));
}

function problem(response, text) {
  let said = {};
  try {
    said = JSON.parse(text);
  } catch {
    // Something in between answered.
  }
  return new ProblemError(said, { status: response.status, requestId: said.requestId, attempts: 1 });
}

/** When to ask again. What is due stays due, however often it is asked for: the earlier of two times counts. */
export class Again {
  #load;
  #timer;
  #due = Infinity;

  constructor(load) {
    this.#load = load;
  }

  /** In so many ms at the latest. */
  soon(ms = 1_000) {
    const due = performance.now() + ms;
    if (due >= this.#due) return;
    clearTimeout(this.#timer);
    this.#due = due;
    this.#timer = setTimeout(() => this.#load(), ms);
  }

  /** It is asked for now. What is heard from here on needs another answer. */
  begun() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#due = Infinity;
  }
}
