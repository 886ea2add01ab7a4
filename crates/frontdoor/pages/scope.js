/** Which spawns the dashboard follows: all of them, or, on a farm that has too many for a browser, those of the chosen node. */

/** More spawns than a page follows. What happens to so many is more than can be watched, too. */
const MANY = 20_000;

export class Scope {
  #feed;
  #snapshot;
  #handlers;
  #topic;
  #subscription;
  #chosen;
  #known = false;

  constructor(feed, snapshot, handlers) {
    this.#feed = feed;
    this.#snapshot = snapshot;
    this.#handlers = handlers;
  }

  /** The nodes are known, or are known not to be for this caller. */
  look() {
    let used = 0;
    for (const node of this.#snapshot.nodes.values()) used += node.slots.used;
    // Not to and fro on a farm of just so many.
    this.#snapshot.many = used > (this.#snapshot.many ? MANY / 2 : MANY);
    this.#known = true;
    this.#follow();
  }

  choose(node) {
    this.#chosen = node;
    this.#follow();
  }

  #follow() {
    if (!this.#known) return;
    const topic = this.#snapshot.many ? this.#chosen && `spawns?node=${encodeURIComponent(this.#chosen)}` : 'spawns';
    if (topic && topic === this.#topic) return;
    this.#subscription?.unsubscribe();
    [this.#topic, this.#subscription] = [topic, topic && this.#feed.subscribe(topic, this.#handlers)];
    if (this.#snapshot.many) this.#snapshot.takeSpawns([]);
  }
}
