/** What the charts show: the last quarter of an hour, as this page has seen it. */

const STEP_MS = 2_000;
const STEPS = 450;

export class History {
  /** Oldest first: `{at, used, total, p50, p95}`; figures of what was started within the step, if anything was. */
  samples = [];
  #took = [];
  #next = 0;

  /** A spawn took so long to be ready. */
  started(ms) {
    this.#took.push(Math.max(0, ms));
  }

  /** Takes a sample if it is time; whether it did. */
  sample(now, used, total) {
    if (now < this.#next) return false;
    this.#next = now + STEP_MS;
    const took = this.#took.sort((a, b) => a - b);
    this.samples.push({ at: now, used, total, count: took.length, p50: quantile(took, 0.5), p95: quantile(took, 0.95), took });
    if (this.samples.length > STEPS) this.samples.shift();
    this.#took = [];
    return true;
  }

  /** Of everything that was started in all samples: how many, and how long they took. */
  get latency() {
    const all = this.samples.flatMap((sample) => sample.took).concat(this.#took).sort((a, b) => a - b);
    return { count: all.length, p50: quantile(all, 0.5), p95: quantile(all, 0.95) };
  }

  /** The span of time that a full chart shows. */
  get spanMs() {
    return STEP_MS * STEPS;
  }
}

function quantile(sorted, q) {
  return sorted.length === 0 ? undefined : sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}
