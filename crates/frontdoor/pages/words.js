/** Words for people: times, sizes, states and errors. */

import { explainExit } from '../client.js';

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, {
  month: 'short',
  day: 'numeric',
  hour: '2-digit',
  minute: '2-digit',
  hour12: false,
});

/** A time of day; with its day when that is not today. */
export function clock(at) {
  const date = new Date(at);
  return Math.abs(date - Date.now()) < 12 * 3_600_000 ? CLOCK.format(date) : DAY.format(date);
}

/** `key=value` of each. */
export function pairsOf(pairs = {}) {
  return Object.entries(pairs).map(([key, value]) => `${key}=${value}`);
}

/** A span of time, as exact as it matters: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`. */
export function span(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 1) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  if (minutes < 60) return `${minutes} min ${String(Math.floor(seconds % 60)).padStart(2, '0')} s`;
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** The same in one unit, for narrow places. */
export function brief(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 100) return `${Math.floor(seconds)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** A short span, for what is measured in milliseconds. */
export function millis(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

export function bytes(count) {
  const gib = count / 2 ** 30;
  return gib >= 1 ? `${gib.toFixed(gib < 10 ? 1 : 0)} GiB` : `${Math.round(count / 2 ** 20)} MiB`;
}

/** 1st, 2nd, 3rd, 4th, …, 11th, 21st. */
export function ordinal(number) {
  const last = number % 100 > 10 && number % 100 < 20 ? 0 : number % 10;
  return `${number.toLocaleString()}${['th', 'st', 'nd', 'rd'][last] ?? 'th'}`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString()} ${number === 1 ? one : many}`;
}

/** The first part of an id that distinguishes it from others: the rest of a version 7 UUID is time. */
export function short(id) {
  return id.length === 36 ? `${id.slice(0, 8)}…${id.slice(-6)}` : id;
}

/** Reasons of ends that an operator should look at. */
export const BAD_ENDS = ['failed', 'signaled', 'ready-timeout', 'liveliness-lost', 'node-lost'];

const STATES = { open: 'Live', connecting: 'Connecting…', waiting: 'Reconnecting…', refused: 'Not signed in', closed: 'Closed' };

/** Shows how the live feed is; `instead` says that it is not live although it is open. */
export function showState(pill, state, who, instead) {
  const shown = who.wanted && state !== 'open' ? 'refused' : state;
  const text = (shown === 'open' && instead) || STATES[shown];
  if (pill.textContent !== text) pill.textContent = text;
  pill.dataset.state = text === STATES[shown] ? shown : 'waiting';
}

const ADVICE = {
  unauthenticated: ['Not signed in', 'The front door authenticates callers, and does not accept the key or token.'],
  forbidden: ['You may not do that', 'Your key or token is good, but not for this.'],
  'origin-not-allowed': ['This page may not do that', 'The front door does not take it from pages of this origin.'],
  'host-not-allowed': ['The front door is not known by that name', 'Name it there with --allowed-host.'],
  'rate-limited': ['Too many in a short time', 'You may start only so many in a minute. Wait a little.'],
  'quota-exceeded': ['You have as many as you may', 'One of yours has to end before another one can start.'],
  'no-capacity': ['The farm is full', 'Every node that could take it is full. Wait in line, or try again soon.'],
  'no-matching-node': ['No node fits', 'No open node offers that pool, those labels or that renderer.'],
  'spawn-failed': ['The server could not start', 'It ended before it was ready. What it said last is below.'],
  'spawn-ended': ['It has ended', 'What this key was answered with has ended. Ask anew, with another key.'],
  'ready-timeout': ['The server took too long', 'It was not ready in time and was ended.'],
  'registry-unavailable': ['The registry is away', 'Redis cannot be reached. What runs goes on; orders must wait.'],
  'node-unreachable': ['The node does not answer', 'Its agent cannot be reached. It may be restarting.'],
  'shutting-down': ['The front door is closing', 'Another one, or this one started again, can answer.'],
  'invalid-request': ['That cannot be asked for', 'The front door did not accept it.'],
  'not-found': ['It is not there', 'It has ended long ago, or never was.'],
  network: ['The front door cannot be reached', 'It may be restarting, or the network is interrupted.'],
};

/** An error for people: what it means, what to do, and the reference to give to the operator. */
export function explained(error) {
  const cause = error.code === 'deadline-exceeded' && error.cause ? error.cause : error;
  const [title, advice] = ADVICE[cause.code] ?? ['Something went wrong', ''];
  return {
    title,
    advice,
    detail: cause.problem?.detail ?? cause.message,
    log: cause.problem?.log?.length ? cause.problem.log.join('\n') : '',
    reference: cause.requestId ? `${cause.code}, request ${cause.requestId}` : (cause.code ?? ''),
  };
}

const EVENTS = {
  'node.up': 'is up',
  'node.stale': 'has stopped reporting; nothing new starts there',
  'node.down': 'is down; its spawns are lost',
  'node.cordoned': 'was cordoned: no new spawns',
  'node.uncordoned': 'is open again',
  'node.draining': 'is being drained',
  'node.drained': 'is drained: nothing runs there any more',
  'node.capacity': 'offers something else now',
  'node.failing': 'is failing: starts fail there',
  'node.recovered': 'is well again: starts succeed there',
  'node.forgotten': 'is forgotten: it is not expected back',
  'spawn.launching': 'is starting',
  'spawn.ready': 'is ready',
  'spawn.connected': 'has a viewer',
  'spawn.suspect': 'has gone silent',
  'spawn.disconnected': 'was left by its viewer',
  'spawn.stopping': 'is being stopped',
  'spawn.lost': 'is lost: its node went away',
};

/** What an event says about its node or spawn. */
export function happened(event) {
  if (event.kind === 'spawn.exited') return `ended: ${explainExit(event.exit)}`;
  const said = EVENTS[event.kind] ?? event.kind;
  const until = event.deadline ? ` until ${clock(event.deadline)} at the latest` : '';
  const by = event.by ? ` by ${event.by}` : '';
  const reason = event.reason ?? event.health?.reason;
  const why = reason ? `: “${reason}”` : '';
  return said + until + by + why;
}
