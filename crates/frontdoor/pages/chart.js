/** Small charts in SVG: slots in use over time, spawns that started and failed, and how long they take to be ready. */

import { draw, make } from './dom.js';
import { failedIn } from './minutes.js';
import { millis } from './words.js';

const WIDTH = 600;
const HEIGHT = 120;
const MINUTE_MS = 60_000;
const EDGE = { left: 0, right: 0, top: 8, bottom: 4 };

/** A chart in its place; `name` says to screen readers what it is. */
export class Chart {
  #svg;
  #top = make('span', { class: 'chart-top' });
  #said = make('p', { class: 'unseen' });

  constructor(place, name) {
    this.#svg = draw('svg', {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: 'none',
      role: 'img',
      'aria-label': name,
      class: 'chart',
    });
    place.replaceChildren(this.#top, this.#svg, this.#said);
  }

  /** Slots in use as an area below the line of all slots. */
  capacity(history, now) {
    const { samples } = history;
    const spanMs = history.capacitySpanMs(now);
    const most = Math.max(1, ...samples.map((sample) => sample.total));
    const x = (at) => across(at, now, spanMs);
    const y = (value) => up(value / most);
    const points = samples.map((sample) => [x(sample.at), y(sample.used)]);
    const total = samples.map((sample) => [x(sample.at), y(sample.total)]);
    const parts = [...grid()];
    if (points.length > 1) {
      const area = `${path(points)}L${points.at(-1)[0]},${up(0)}L${points[0][0]},${up(0)}Z`;
      parts.push(draw('path', { d: area, class: 'area' }));
      parts.push(draw('path', { d: path(points), class: 'line' }));
      parts.push(draw('path', { d: path(total), class: 'limit' }));
    }
    this.#svg.replaceChildren(...parts);
    this.#top.textContent = most === 1 && samples.length === 0 ? '' : `${most.toLocaleString()} slots`;
    const last = samples.at(-1);
    this.#said.textContent = last ? `${last.used} of ${last.total} slots in use` : '';
  }

  /** For each minute of the last hour a bar of what was started, and in it one of what failed. */
  rates(minutes, now) {
    const spanMs = 60 * MINUTE_MS;
    const seen = minutes.filter(({ at }) => Date.parse(at) > now - spanMs);
    const most = Math.max(1, ...seen.map((minute) => Math.max(minute.started, failedIn(minute))));
    const width = WIDTH / 60 - 1;
    const bar = (minute, number, kind) => {
      const x = across(Date.parse(minute.at) + MINUTE_MS, now, spanMs) - width;
      return draw('rect', { x: x.toFixed(1), y: up(number / most), width, height: up(0) - up(number / most), class: kind });
    };
    const parts = [...grid()];
    for (const minute of seen) {
      parts.push(bar(minute, minute.started, 'started'));
      if (failedIn(minute) > 0) parts.push(bar(minute, failedIn(minute), 'failed'));
    }
    this.#svg.replaceChildren(...parts);
    const [started, failed] = [seen.reduce((sum, { started: n }) => sum + n, 0), seen.reduce((sum, m) => sum + failedIn(m), 0)];
    this.#top.textContent = started + failed > 0 ? `${most.toLocaleString()} a minute` : '';
    this.#said.textContent = `${started} started and ${failed} failed in the last hour`;
  }

  /** The median as a line, the slowest twentieth as a fainter one above it, dots where they were measured. */
  latency(history, now) {
    const measured = history.pieces(now);
    const most = Math.max(10, ...measured.map((sample) => sample.p95)) * 1.1;
    const at = (key) => measured.map((s) => [across(s.at, now, history.latencySpanMs(now)), up(s[key] / most)]);
    const parts = [...grid()];
    if (measured.length > 0) {
      parts.push(draw('path', { d: path(at('p95')), class: 'faint' }));
      parts.push(draw('path', { d: path(at('p50')), class: 'line' }));
      const dot = ([x, y]) => draw('path', { d: `M${x},${y}h0`, class: 'dot' });
      parts.push(...at('p50').map(dot));
    }
    this.#svg.replaceChildren(...parts);
    this.#top.textContent = measured.length > 0 ? millis(most) : '';
    const { p50, p95, count } = history.latency;
    this.#said.textContent = count > 0 ? `median ${millis(p50)}, 95 % within ${millis(p95)}, of ${count} spawns` : '';
  }
}

function across(at, now, spanMs) {
  return WIDTH - EDGE.right - ((now - at) / spanMs) * (WIDTH - EDGE.left - EDGE.right);
}

function up(share) {
  return HEIGHT - EDGE.bottom - share * (HEIGHT - EDGE.top - EDGE.bottom);
}

function path(points) {
  return points.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)},${y.toFixed(1)}`).join('');
}

function grid() {
  return [0, 0.5, 1].map((share) => draw('path', { d: `M0,${up(share)}H${WIDTH}`, class: 'grid' }));
}
