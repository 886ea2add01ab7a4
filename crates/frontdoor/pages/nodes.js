/** The list of nodes: which is full, which is closed, which is being emptied and for how long. */

import { allow, byId, make, offer, say, set } from './dom.js';
import { Windowed } from './window.js';
import { brief, bytes, clock, count, pairsOf, span } from './words.js';

/** What is to be said about a node's state, most important first: `[text, kind, explanation]`. */
export function states(node, snapshot) {
  const said = [];
  const silent = snapshot.now() - Date.parse(node.lastHeartbeatAt);
  if (node.availability === 'down') said.push(['Down', 'bad', `no word for ${span(silent)}`]);
  if (node.availability === 'stale') said.push(['Silent', 'warn', `no word for ${span(silent)}`]);
  if (isFailing(node)) said.push(['Failing', 'bad', healthWords(node.health)]);
  if (node.eligibility === 'draining') {
    const done = snapshot.used(node) === 0;
    said.push(done ? ['Drained', 'good', 'nothing runs here any more'] : ['Draining', 'warn', drainWords(node, snapshot)]);
  }
  if (node.eligibility === 'cordoned') said.push(['Cordoned', 'warn', 'closed to new spawns']);
  if (node.availability === 'up' && node.slots.total > 0 && snapshot.isFull(node)) said.push(['Full', 'full', 'no slot is free']);
  if (said.length === 0) said.push(['Open', 'good', '']);
  return said;
}

/** Whether starts fail on a node that is there. */
export function isFailing(node) {
  return node.availability !== 'down' && node.health?.state === 'failing';
}

/** Why starts fail on a node, and since when. */
export function healthWords({ reason = 'starts fail', since }) {
  return since ? `${reason}, since ${clock(since)}` : reason;
}

/** How much is left of a drain, and how long it will take. */
export function drainWords(node, snapshot) {
  const drain = snapshot.drain(node);
  if (!drain) return '';
  if (drain.left === 0) return 'nothing runs here any more';
  const latest = drain.longestMs > 0 ? `${brief(drain.longestMs)} at most` : 'ending them now';
  const pace = drain.paceMs === undefined ? '' : `, about ${brief(drain.paceMs)} at this pace`;
  return `${drain.left} left, ${latest}${pace}`;
}

export class Nodes {
  #snapshot;
  #orders;
  #select;
  #selected;
  #list;
  #filter = { text: '', show: '', order: 'name' };

  /** `select(id)` is called when a node is chosen; undefined when the choice is undone. */
  constructor(snapshot, orders, select) {
    this.#snapshot = snapshot;
    this.#orders = orders;
    this.#select = select;
    this.#list = new Windowed(byId('nodes-frame'), {
      key: (node) => node.id,
      create: (id) => this.#row(id),
      update: (row, node) => this.#fill(row, node),
    });
    const changed = () => {
      this.#filter = {
        text: byId('nodes-search').value.trim().toLowerCase(),
        show: byId('nodes-show').value,
        order: byId('nodes-order').value,
      };
      byId('nodes-frame').scrollTop = 0;
      this.render();
    };
    byId('nodes-search').addEventListener('input', changed);
    for (const id of ['nodes-search', 'nodes-show', 'nodes-order']) byId(id).addEventListener('change', changed);
  }

  /** Marks this node as the chosen one. */
  choose(id) {
    this.#selected = id;
    this.render();
  }

  render() {
    const all = [...this.#snapshot.nodes.values()];
    const shown = all.filter((node) => this.#wanted(node));
    const share = (node) => this.#snapshot.used(node) / Math.max(1, node.slots.total);
    const byName = (a, b) => (a.id < b.id ? -1 : 1);
    shown.sort(this.#filter.order === 'fullest' ? (a, b) => share(b) - share(a) || byName(a, b) : byName);
    byId('nodes-frame').closest('.columns').classList.toggle('no-gpus', !all.some((node) => node.gpus.length > 0));
    this.#list.show(shown);
    const every = all.length.toLocaleString();
    say(byId('nodes-count'), shown.length === all.length ? every : `${shown.length.toLocaleString()} of ${every}`);
    const empty = byId('nodes-empty');
    empty.hidden = shown.length > 0 || !this.#snapshot.complete;
    const none = this.#orders.mayLook
      ? 'No node has reported yet. Start one with “hatchery agent”.'
      : 'You may not look at nodes: that needs the scope “read”.';
    say(empty, all.length === 0 ? none : 'No node is like that.');
  }

  #wanted(node) {
    const { text, show } = this.#filter;
    if (show === 'full' && !this.#snapshot.isFull(node)) return false;
    if ((show === 'draining' || show === 'cordoned') && node.eligibility !== show) return false;
    if (show === 'failing' && !isFailing(node)) return false;
    if (show === 'away' && node.availability === 'up') return false;
    if (!text) return true;
    return [node.id, node.pool, ...pairsOf(node.labels)].some((word) => word.toLowerCase().includes(text));
  }

  #row(id) {
    const name = make('button', { type: 'button', class: 'name', onclick: () => this.#select(id) }, id);
    const order = (what, act) =>
      make('button', { type: 'button', class: 'small', 'aria-label': `${what} ${id}`, onclick: act }, what);
    const parts = {
      name,
      sub: make('span', { class: 'sub' }),
      bar: make('span', { class: 'bar', role: 'img' }, make('span')),
      slots: make('span', { class: 'number' }),
      chips: make('span', { class: 'chips' }),
      note: make('span', { class: 'sub' }),
      gpus: make('td', { class: 'c-gpus' }),
      cpu: make('span'),
      memory: make('span', { class: 'sub' }),
      cordon: order('Cordon', () => this.#orders.cordon(id)),
      drain: order('Drain', () => this.#orders.drain(id)),
      uncordon: order('Uncordon', () => this.#orders.uncordon(id)),
    };
    const row = make(
      'tr',
      { 'data-node': id },
      make('th', { scope: 'row', class: 'c-name' }, name, parts.sub),
      make('td', { class: 'c-slots' }, parts.bar, parts.slots),
      make('td', { class: 'c-state' }, parts.chips, parts.note),
      parts.gpus,
      make('td', { class: 'c-load' }, parts.cpu, parts.memory),
      make('td', { class: 'c-do' }, parts.uncordon, parts.cordon, parts.drain),
    );
    // A click anywhere in the row that is not on a button is a click on its name.
    row.addEventListener('click', (event) => {
      if (!event.target.closest('button')) name.click();
    });
    row.parts = parts;
    return row;
  }

  #fill(row, node) {
    const { parts } = row;
    const used = this.#snapshot.used(node);
    const { total } = node.slots;
    say(parts.sub, [node.pool, ...pairsOf(node.labels)].join(' · '));
    set(parts.name, 'aria-pressed', node.id === this.#selected);
    set(row, 'class', node.id === this.#selected ? 'chosen' : false);
    parts.bar.firstChild.style.width = `${Math.min(100, (used / Math.max(1, total)) * 100)}%`;
    set(parts.bar, 'class', `bar${used >= total ? ' full' : ''}`);
    set(parts.bar, 'aria-label', `${used} of ${total} slots in use`);
    say(parts.slots, `${used} / ${total}`);
    const said = states(node, this.#snapshot);
    const chips = said.map(([text, kind]) => `${kind}:${text}`).join();
    if (parts.chips.dataset.chips !== chips) {
      parts.chips.dataset.chips = chips;
      parts.chips.replaceChildren(...said.map(([text, kind]) => make('span', { class: `chip ${kind}` }, text)));
    }
    say(parts.note, said[0][2]);
    set(parts.note, 'title', said[0][2]);
    const gpus = this.#snapshot.gpuUse(node);
    say(parts.gpus, gpus.length ? gpus.map((gpu) => `${gpu.used}/${gpu.total}`).join('  ') : '–');
    set(parts.gpus, 'title', gpus.map((gpu) => `GPU ${gpu.index}: ${gpu.used} of ${gpu.total}`).join(', ') || 'not counted');
    say(parts.cpu, `${Math.round(node.load.cpu * 100)} %`);
    say(parts.memory, `${bytes(node.load.memoryFreeBytes)} free`);
    const { uncordon, cordon, drain } = parts;
    offer({ uncordon, cordon, drain }, {
      uncordon: node.eligibility !== 'eligible',
      cordon: node.eligibility === 'eligible',
      drain: node.eligibility !== 'draining',
    });
    allow({ uncordon, cordon, drain }, this.#orders.mayOperate);
  }
}

/** What stands in the totals about all nodes. The slots of nodes that are down are in no total, but in `gone`. */
export function summary(snapshot) {
  const tally = { up: 0, full: 0, draining: 0, cordoned: 0, stale: 0, down: 0, failing: 0, used: 0, total: 0, gone: 0 };
  Object.assign(tally, { free: 0, freeFailing: 0, freeDedicated: 0 });
  for (const node of snapshot.nodes.values()) {
    const used = snapshot.used(node);
    tally[node.availability] += 1;
    if (node.eligibility !== 'eligible') tally[node.eligibility] += 1;
    if (node.availability === 'down') {
      tally.gone += node.slots.total;
      continue;
    }
    if (isFailing(node)) tally.failing += 1;
    tally.used += used;
    tally.total += node.slots.total;
    if (node.availability !== 'up') continue;
    if (used >= node.slots.total) tally.full += 1;
    if (node.eligibility !== 'eligible') continue;
    // Any request may use what is free, but for what only some get: the last choice, and pools that must be named.
    const free = isFailing(node) ? 'freeFailing' : node.dedicated ? 'freeDedicated' : 'free';
    tally[free] += Math.max(0, node.slots.total - used);
  }
  return tally;
}

/** The facts of one node, beside its spawns. */
export function facts(node, snapshot) {
  const rows = [
    ['Slots', `${snapshot.used(node)} of ${node.slots.total} in use`],
    ...snapshot.gpuUse(node).map((gpu) => [`GPU ${gpu.index}`, `${gpu.used} of ${gpu.total} in use`]),
    ['Warm servers', warmWords(node.warm)],
    ['Starts', node.starts && `${node.starts.waiting} waiting, ${node.starts.limit} at once`],
    ['Load', `${Math.round(node.load.cpu * 100)} % processor, ${bytes(node.load.memoryFreeBytes)} free`],
    ['Health', node.health?.state === 'failing' ? `failing: ${healthWords(node.health)}` : 'ok'],
    ['Pool', node.dedicated ? `${node.pool}, for requests that name it` : node.pool],
    ['Labels', pairsOf(node.labels).join(', ') || 'none'],
    ['Endpoints', node.endpoint],
    ['Agent', `${node.version} at ${node.advertise}`],
    ['Last report', clock(node.lastHeartbeatAt)],
  ];
  const { nextProbeAt } = node.health ?? {};
  if (isFailing(node) && nextProbeAt) rows.push(['Next try', clock(nextProbeAt)]);
  if (node.availability !== 'up') rows.push(['Silent for', span(snapshot.now() - Date.parse(node.lastHeartbeatAt))]);
  return rows.filter(([, value]) => value !== undefined);
}

/** `csr: 2 of 2 ready`; nothing where none are kept. */
function warmWords(warm) {
  const all = Object.entries(warm ?? {}).map(([renderer, { ready, wanted }]) => `${renderer}: ${ready} of ${wanted} ready`);
  return all.length === 0 ? undefined : all.join(', ');
}

/** A drain in one sentence, for the detail of a node. */
export function drainStory(node, snapshot) {
  const drain = snapshot.drain(node);
  if (!drain) return undefined;
  const { reason, by, deadline, startedAt } = node.drain;
  const who = [by && `by ${by}`, reason && `“${reason}”`].filter(Boolean).join(', ');
  const began = `Drain asked for at ${clock(startedAt)}${who ? ` (${who})` : ''}.`;
  if (drain.left === 0) return { ...drain, text: `${began} Nothing runs here any more: the machine can go.` };
  const latest = drain.longestMs > 0 ? `ended at ${clock(deadline)}, in ${span(drain.longestMs)}` : 'being ended now';
  const pace = drain.paceMs === undefined ? '' : ` At the pace so far it is empty in about ${brief(drain.paceMs)}.`;
  return { ...drain, text: `${began} ${count(drain.left, 'spawn')} left; what still runs is ${latest}.${pace}` };
}
