/** Asks the front door for JSON or text, as the page's user. */

import { problem } from './orders.js';

const TIMEOUT_MS = 15_000;

/** The answer as text; throws what the front door says is wrong. */
export async function askText(who, path) {
  const response = await fetch(new URL(`../${path}`, import.meta.url), {
    headers: who.headers,
    cache: 'no-store',
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const text = await response.text();
  if (!response.ok) throw problem(response, text);
  return text;
}

/** The same as JSON. */
export async function ask(who, path) {
  return JSON.parse(await askText(who, path));
}
