/** Small things for building and changing a document. Text only ever gets in as text. */

/** An element by its id. */
export function byId(id) {
  return document.getElementById(id);
}

/** A new element: attributes (class, type, …), listeners (`onclick`), then children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** A short id of a spawn, of which narrow screens show the end alone: ids of one morning begin alike. */
export function codeOf(short) {
  const [early, late] = short.split('…');
  return late === undefined ? make('code', {}, short) : make('code', {}, make('span', { class: 'early' }, early), `…${late}`);
}

/** The same in SVG. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets a text if it is another one: what does not change is not said again, and costs nothing. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const shown = new WeakMap();

/** Fills a place anew when it is made `of` something else than before: otherwise focus and selection stay. */
export function refill(place, of, children) {
  const text = JSON.stringify(of);
  if (shown.get(place) === text) return;
  shown.set(place, text);
  place.replaceChildren(...children());
}

/** Sets or removes an attribute if it is another one. */
export function set(element, name, value) {
  if (value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value === true ? '' : value);
  }
}

/** Shows those of some buttons that make sense now. The focus of one that goes is taken by the next that stays. */
export function offer(buttons, wanted) {
  const lost = Object.keys(buttons).find((name) => buttons[name] === document.activeElement && !wanted[name]);
  for (const name in buttons) buttons[name].hidden = !wanted[name];
  if (lost) Object.values(buttons).find((button) => !button.hidden)?.focus({ preventScroll: true });
}

/** Buttons that their user may press, or may not for want of the scope `operate`. The page says so elsewhere as well. */
export function allow(buttons, allowed) {
  for (const button of Object.values(buttons)) {
    set(button, 'disabled', !allowed);
    set(button, 'title', !allowed && 'This needs the scope “operate”');
  }
}

/** Runs `work` at the next frame, once however often it was asked for, and not more often than every `apart` ms. */
export function batched(work, apart = 0) {
  let asked = false;
  let last = -Infinity;
  const frame = (now) => {
    asked = false;
    last = now;
    work();
  };
  return () => {
    if (asked) return;
    asked = true;
    const wait = last + apart - performance.now();
    if (wait > 0) setTimeout(() => requestAnimationFrame(frame), wait);
    else requestAnimationFrame(frame);
  };
}

/** Says something in passing: seen for a while, heard by screen readers. */
export function notify(text, kind = 'note') {
  const place = byId('notes');
  const note = make('p', { class: `note ${kind}` }, text);
  place.append(note);
  while (place.children.length > 4) place.firstChild.remove();
  setTimeout(() => note.remove(), kind === 'bad' ? 15_000 : 8_000);
}
