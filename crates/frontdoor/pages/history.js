/** What the charts show: the last hour. It begins before the page was opened, with what the farm has counted minute by minute. */

const STEP_MS = 2_000;
const MAX_SPAN_MS = 60 * 60_000;
const MIN_SPAN_MS = 2 * 60_000;
const MAX_STARTS = 20_000;
/** The farm's clock is known better as time goes on; one that goes back further than this was not known at all. */
const SET_BACK_MS = 10_000;
/** Across a chart. */
const BUCKETS = 90;

export class History {
  /** Slots in use, oldest first: `{at, used, total}`. */
  samples = [];
  /** What was started, oldest first: `{at, took}`. */
  #starts = [];
  #next = 0;

  /** A spawn was ready then, and it had taken so long. */
  started(at, took) {
    this.#starts.push({ at, took: Math.max(0, took) });
    if (this.#starts.length > MAX_STARTS + 1000) this.#starts.splice(0, 1000);
  }

  /** Starts over with what is known of spawns that were started before; times are of the farm's clock. */
  seed(spawns, now) {
    const starts = [];
    for (const { startedAt, readyAt } of spawns) {
      const at = readyAt ? Date.parse(readyAt) : 0;
      if (at > now - MAX_SPAN_MS) starts.push({ at, took: Math.max(0, at - Date.parse(startedAt)) });
    }
    this.#starts = starts.sort((a, b) => a.at - b.at).slice(-MAX_STARTS);
  }

  /** Puts what the farm has counted before what this page has seen itself; times are of the farm's clock. */
  recall(minutes, now) {
    const first = this.samples.find(({ own }) => own)?.at ?? now;
    const before = minutes.filter(({ at, slots }) => slots && Date.parse(at) > now - MAX_SPAN_MS && Date.parse(at) < first - 60_000);
    const recalled = before.map(({ at, slots }) => ({ at: Date.parse(at) + 30_000, used: slots.used, total: slots.total }));
    this.samples = [...recalled, ...this.samples.filter(({ own }) => own)];
  }

  /** Takes a sample if it is time; whether it did. */
  sample(now, used, total) {
    if (now < this.#next - SET_BACK_MS) {
      this.samples = [];
      this.#next = now;
    }
    if (now < this.#next) return false;
    this.#next = now + STEP_MS;
    this.samples.push({ at: now, used, total, own: true });
    while (this.samples[0].at < now - MAX_SPAN_MS) this.samples.shift();
    const old = this.#starts.findIndex(({ at }) => at >= now - MAX_SPAN_MS);
    this.#starts.splice(0, old < 0 ? this.#starts.length : old);
    return true;
  }

  /** How long a time the chart of slots shows: as long as is known of, within bounds. */
  capacitySpanMs(now) {
    return bounded(now - (this.samples[0]?.at ?? now));
  }

  /** The same for the chart of starts, of which more is known. */
  latencySpanMs(now) {
    return bounded(now - (this.#starts[0]?.at ?? now));
  }

  /** Of everything that was started: how many, and how long they took. */
  get latency() {
    const all = this.#starts.map(({ took }) => took).sort((a, b) => a - b);
    return { count: all.length, p50: quantile(all, 0.5), p95: quantile(all, 0.95) };
  }

  /** The same piece by piece, where something was started: `{at, p50, p95}`. */
  pieces(now) {
    const size = this.latencySpanMs(now) / BUCKETS;
    const pieces = new Map();
    for (const { at, took } of this.#starts) {
      const piece = Math.floor(at / size);
      if (!pieces.has(piece)) pieces.set(piece, []);
      pieces.get(piece).push(took);
    }
    return [...pieces].map(([piece, took]) => {
      took.sort((a, b) => a - b);
      return { at: (piece + 0.5) * size, p50: quantile(took, 0.5), p95: quantile(took, 0.95) };
    });
  }
}

function bounded(ms) {
  return Math.min(MAX_SPAN_MS, Math.max(MIN_SPAN_MS, ms));
}

function quantile(sorted, q) {
  return sorted.length === 0 ? undefined : sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}
