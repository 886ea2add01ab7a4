/**
 * The dashboard.
 *
 *     live feed ──▶ snapshot.js (the farm) ──▶ one frame at a time ──▶ nodes.js · node.js · spawns.js · events.js
 *                                                                     totals and charts (here)
 *     operator  ──▶ orders.js ──▶ front door ──▶ live feed
 *               ──▶ why.js (where a spawn would be placed, asked and answered)
 *
 * signin.js asks for a credential where the front door authenticates callers.
 *
 * The page shows what the feed brings. The rest is asked for: counts of the last hour (minutes.js), what failed in it (failures.js), the
 * line (line.js), operators' orders (audit.js), spawns of the past (past.js), and all that is known of one spawn, which has a page of its
 * own (record.js). address.js says what is shown. The effect of an order is shown when the feed reports it.
 */

import { live } from '../client.js';
import { show, shown } from './address.js';
import { Audit } from './audit.js';
import { Chart } from './chart.js';
import { batched, byId, make, say, set, notify } from './dom.js';
import { Events } from './events.js';
import { Failures } from './failures.js';
import { History } from './history.js';
import { Line } from './line.js';
import { Minutes } from './minutes.js';
import { Detail } from './node.js';
import { Nodes, isFailing, summary } from './nodes.js';
import { Orders } from './orders.js';
import { Past } from './past.js';
import { Record } from './record.js';
import { Scope } from './scope.js';
import { Snapshot } from './snapshot.js';
import { SignIn } from './signin.js';
import { Spawns } from './spawns.js';
import { Trouble, absence } from './trouble.js';
import { Why } from './why.js';
import { brief, millis } from './words.js';

/** At most so often is everything looked through again: 20 000 spawns are some work. */
const APART_MS = 200;

const draw = batched(render, APART_MS);
const snapshot = new Snapshot(draw);
const history = new History();
const who = new SignIn({ changed: known, limits });
const orders = new Orders(snapshot, who);
const nodes = new Nodes(snapshot, orders, choose);
const detail = new Detail(snapshot, orders, () => choose(undefined));
const spawns = new Spawns(snapshot, orders);
const events = new Events(snapshot);
new Why(who);
const capacity = new Chart(byId('capacity-chart'), 'Slots in use over time');
const latency = new Chart(byId('latency-chart'), 'Time from start to ready over time');
const rates = new Chart(byId('rates-chart'), 'Spawns started and failed, minute by minute');

const feed = live({ token: who.token });
who.follow(feed);
const isOpen = () => feed.state.state === 'open';
const minutes = new Minutes(who, isOpen, (list, now) => {
  history.recall(list, now);
  byId('rates-card').hidden = !minutes.known;
  if (minutes.known) rates.rates(list, now);
  failures.render();
});
const failures = new Failures(who, minutes, () => trouble.render());
const audit = new Audit(who, () => snapshot.now(), isOpen);
const past = new Past(who);
const record = new Record(who);
const line = new Line(who, () => snapshot.now(), isOpen);
const failing = () => [...snapshot.nodes.values()].filter(isFailing);
const trouble = new Trouble(feed, who, () => ({ failing: failing(), cause: failures.cause }), draw);
let cutAt;
let chosen;

feed.addEventListener('heartbeat', ({ detail: at }) => {
  snapshot.hear(at);
  trouble.whole();
});
feed.addEventListener('state', ({ detail: { state } }) => {
  if (state === 'waiting' && !who.wanted) cutAt ??= Date.now();
});
const following = feed.subscribe('nodes', {
  onSnapshot: (list) => {
    snapshot.takeNodes(list);
    trouble.whole();
    scope.look();
    if (snapshot.many) arrived([]);
  },
  onResume: () => trouble.whole(),
  onRefused: (error) => barred(error),
  onEvent: (event) => {
    heard(event);
    audit.heard(event);
    snapshot.nodeEvent(event);
    // Load and GPUs come with the next snapshot of the feed.
    if (event.kind === 'node.up' || event.kind === 'node.capacity' || !snapshot.nodes.has(event.node)) refreshSoon();
  },
});
const scope = new Scope(feed, snapshot, {
  onSnapshot: (list) => {
    snapshot.takeSpawns(list);
    arrived(list);
  },
  onResume: () => back('The live feed is back. Nothing was missed.'),
  onEvent: (event) => {
    heard(event);
    failures.heard(event);
    audit.heard(event);
    record.heard(event);
    const took = snapshot.spawnEvent(event);
    if (took !== undefined) history.started(Date.parse(event.at), took);
  },
});

function arrived(list) {
  history.seed(list, snapshot.now());
  failures.load();
  minutes.load();
  audit.soon(0);
  line.soon(0);
  back('The live feed is back, with the farm as it is now.');
}

function known() {
  snapshot.partial = !who.may('operate');
  audit.soon(0);
  minutes.soon(0);
  record.again();
  past.again();
  draw();
}

/** What the caller may not do here, and does not see. */
function limits(may) {
  const said = [];
  if (!may('read')) said.push('look at nodes (scope “read”)');
  if (!may('operate')) said.push('give orders to nodes, or see and stop the spawns of others (scope “operate”)');
  return said.length === 0 ? '' : `You may not ${said.join(', nor ')}. The spawns that are shown are your own.`;
}

/** A caller that may not see nodes sees spawns all the same. */
function barred(error) {
  who.judge(error, 'read');
  snapshot.takeNodes([]);
  scope.look();
}
feed.addEventListener('refused', ({ detail }) => {
  // Every authenticated caller may follow spawns.
  if (detail.code === 'forbidden' && detail.topic === undefined) barred(detail);
});

function heard(event) {
  snapshot.hear(event.at);
  trouble.whole();
}

function back(text) {
  trouble.whole();
  if (cutAt === undefined) return;
  notify(`${text} It was away for ${absence(Date.now() - cutAt)}.`, 'good');
  cutAt = undefined;
}

/** Load, memory and GPUs are no events: they come with a snapshot, more seldom the more nodes there are. */
let refreshing;
function refreshSoon(ms = 500) {
  clearTimeout(refreshing);
  refreshing = setTimeout(() => {
    if (!document.hidden && feed.state.state === 'open' && who.may('read')) following.refresh();
    refreshSoon(Math.min(15_000, 2_000 + snapshot.nodes.size * 10));
  }, ms);
}
refreshSoon(3_000);

function choose(id) {
  chosen = id === chosen ? undefined : id;
  nodes.choose(chosen);
  detail.choose(chosen);
  scope.choose(chosen);
  spawns.choose(chosen);
  show(chosen === undefined ? {} : { node: chosen });
  // Beside the list one sees it; below it one is taken there.
  const title = byId('detail-title');
  if (chosen !== undefined && title.getBoundingClientRect().top > innerHeight) {
    title.scrollIntoView({ behavior: 'smooth' });
    title.focus({ preventScroll: true });
  }
}

function render() {
  snapshot.tidy();
  nodes.render();
  detail.render();
  spawns.render();
  events.render();
  failures.render();
  trouble.render();
  totals();
}

function totals() {
  if (!snapshot.complete) return;
  const all = summary(snapshot);
  say(byId('used'), all.used.toLocaleString());
  say(byId('total'), `of ${all.total.toLocaleString()}`);
  const more = [
    [all.freeFailing, 'where starts fail'],
    [all.freeDedicated, 'on dedicated nodes'],
    [all.gone, 'on nodes that are down'],
  ].filter(([slots]) => slots > 0);
  const besides = more.map(([slots, where]) => `, ${slots.toLocaleString()} more ${where}`).join('');
  say(byId('free'), `${all.free.toLocaleString()} free on open nodes${besides}`);
  const bar = byId('farm-bar');
  bar.firstChild.style.width = `${Math.min(100, (all.used / Math.max(1, all.total)) * 100)}%`;
  set(bar, 'aria-label', `${all.used} of ${all.total} slots in use`);
  set(bar, 'class', all.total > 0 && all.used >= all.total ? 'bar full' : 'bar');
  say(byId('up'), all.up.toLocaleString());
  say(byId('of-nodes'), `of ${snapshot.nodes.size.toLocaleString()} up`);
  chips(byId('node-states'), [
    [all.down, 'down', 'bad'],
    [all.failing, 'failing', 'bad'],
    [all.stale, 'silent', 'warn'],
    [all.draining, 'draining', 'warn'],
    [all.cordoned, 'cordoned', 'warn'],
    [all.full, 'full', 'full'],
  ], 'all open');
  const states = new Map();
  for (const spawn of snapshot.spawns.values()) states.set(spawn.state, (states.get(spawn.state) ?? 0) + 1);
  say(byId('running'), (snapshot.many ? all.used : (states.get('ready') ?? 0)).toLocaleString());
  const others = [
    ['launching', 'calm'],
    ['suspect', 'warn'],
    ['disconnected', 'calm'],
    ['stopping', 'warn'],
    ['lost', 'bad'],
  ];
  chips(byId('spawn-states'), others.map(([state, kind]) => [states.get(state) ?? 0, state, kind]), 'none starting or in trouble');
}

function chips(place, list, otherwise) {
  const shown = list.filter(([number]) => number > 0);
  const key = shown.map(([number, word]) => `${number} ${word}`).join();
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  const made = shown.map(([number, word, kind]) => make('span', { class: `chip ${kind}` }, `${number.toLocaleString()} ${word}`));
  place.replaceChildren(...(made.length > 0 ? made : [otherwise]));
}

/** What changes with time alone: ages, countdowns, charts. */
setInterval(() => {
  const now = snapshot.now();
  if (snapshot.complete && !trouble.cut) {
    const { used, total } = summary(snapshot);
    if (history.sample(now, used, total) && !document.hidden) {
      capacity.capacity(history, now);
      latency.latency(history, now);
      say(byId('history-span'), `last ${brief(history.capacitySpanMs(now))}`);
      const { p50, p95, count: measured } = history.latency;
      say(byId('latency'), measured ? `${millis(p50)} · 95 %: ${millis(p95)}` : 'nothing started yet');
    }
  }
  if (document.hidden) return;
  line.render();
  nodes.render();
  detail.render();
  if (snapshot.tidy()) spawns.render();
  else spawns.redraw();
}, 1000);

/** Shows what the address asks for. */
function follow() {
  if (record.follow()) return;
  const asked = shown().get('node') ?? undefined;
  if (shown().has('past')) past.follow();
  else if (asked !== undefined && asked !== chosen) choose(asked);
}
addEventListener('hashchange', follow);
follow();
