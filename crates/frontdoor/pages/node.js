/** The chosen node: its facts, its drain, the orders one can give it. */

import { allow, byId, make, offer, say, set } from './dom.js';
import { drainStory, facts, states } from './nodes.js';

export class Detail {
  #snapshot;
  #orders;
  #id;
  #cells = new Map();
  #list = make('dl');
  #drain = make('div', { class: 'drain', hidden: true });
  #bar = make('progress', { max: '1', value: '0', 'aria-label': 'Drain progress' });
  #story = make('p', { id: 'drain-story' });
  #chips = make('p', { class: 'chips' });
  #buttons;

  constructor(snapshot, orders, leave) {
    this.#snapshot = snapshot;
    this.#orders = orders;
    const order = (text, act) => make('button', { type: 'button', class: 'small', onclick: () => act(this.#id) }, text);
    this.#buttons = {
      uncordon: order('Uncordon', (id) => orders.uncordon(id)),
      cordon: order('Cordon', (id) => orders.cordon(id)),
      drain: order('Drain…', (id) => orders.drain(id)),
      all: order('All nodes', leave),
    };
    byId('detail-orders').replaceChildren(...Object.values(this.#buttons));
    this.#drain.append(this.#story, this.#bar);
    byId('detail').replaceChildren(this.#chips, this.#drain, this.#list);
    this.choose(undefined);
  }

  choose(id) {
    this.#id = id;
    this.#cells.clear();
    this.#list.replaceChildren();
    this.render();
  }

  render() {
    const node = this.#snapshot.nodes.get(this.#id);
    say(byId('detail-title'), this.#id ?? 'All nodes');
    byId('detail').hidden = !node;
    offer(this.#buttons, {
      uncordon: node && node.eligibility !== 'eligible',
      cordon: node && node.eligibility !== 'cordoned',
      drain: node,
      all: this.#id !== undefined,
    });
    const { uncordon, cordon, drain } = this.#buttons;
    allow({ uncordon, cordon, drain }, this.#orders.mayOperate);
    if (!node) return;
    say(this.#buttons.drain, node.eligibility === 'draining' ? 'Change drain…' : 'Drain…');
    const said = states(node, this.#snapshot);
    const key = said.map(([text]) => text).join();
    if (this.#chips.dataset.key !== key) {
      this.#chips.dataset.key = key;
      this.#chips.replaceChildren(...said.map(([text, kind]) => make('span', { class: `chip ${kind}` }, text)));
    }
    const story = drainStory(node, this.#snapshot);
    this.#drain.hidden = !story;
    if (story) {
      say(this.#story, story.text);
      set(this.#bar, 'value', story.most === 0 ? 1 : 1 - story.left / story.most);
    }
    this.#show(facts(node, this.#snapshot));
  }

  /** Facts keep their places: only texts change, so that one can select and read them. */
  #show(rows) {
    const names = rows.map(([name]) => name);
    if ([...this.#cells.keys()].join() !== names.join()) {
      this.#cells = new Map(names.map((name) => [name, make('dd')]));
      this.#list.replaceChildren(
        ...[...this.#cells].map(([name, cell]) => make('div', {}, make('dt', {}, name), cell)),
      );
    }
    for (const [name, text] of rows) say(this.#cells.get(name), text);
  }
}
