/**
 * What the address says is shown, after its `#`: a node (`node=…`), a spawn (`spawn=…`), or a list of earlier spawns (`past`, with its
 * filters). The address can be shared: it shows the same to others.
 */

/** The parameters now. */
export function shown() {
  return new URLSearchParams(location.hash.slice(1));
}

/** An address that shows this. */
export function addressOf(parameters) {
  const text = new URLSearchParams(parameters).toString().replace(/=(?=&|$)/g, '');
  return text ? `#${text}` : '#';
}

/** Shows this from now on. `back`: the way back leads to what was shown before. */
export function show(parameters, { back = false } = {}) {
  const address = new URL(location.href);
  address.hash = addressOf(parameters);
  history[back ? 'pushState' : 'replaceState'](null, '', address);
}
