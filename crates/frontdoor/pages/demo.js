/** The demo: a web client of the farm, with any number of viewers. */

import { live, stop } from '../client.js';
import { byId, say } from './dom.js';
import { SignIn } from './signin.js';
import { Viewer } from './viewer.js';
import { showState } from './words.js';

const who = new SignIn({
  changed: example,
  limits: (may) => (may('spawn') ? '' : 'You may not start viewers: that needs the scope “spawn”.'),
});
const feed = live({ token: who.token });
who.follow(feed);
const viewers = new Set();
let number = 0;

feed.addEventListener('state', ({ detail: { state } }) => {
  showState(byId('connection'), state, who);
});

byId('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  number += 1;
  const viewer = new Viewer(number, request(), { feed, who }, changed);
  viewers.add(viewer);
  byId('viewers').prepend(viewer.card);
  changed();
});

function changed() {
  for (const viewer of viewers) if (!viewer.card.isConnected) viewers.delete(viewer);
  const open = [...viewers].filter((viewer) => !viewer.over).length;
  say(byId('viewers-count'), viewers.size === 0 ? '' : `${open} open`);
  byId('viewers-empty').hidden = viewers.size > 0;
}

/** The request that the form makes; an empty field is left to the farm. */
function request() {
  const text = (id) => byId(id).value.trim();
  const pairs = text('labels')
    .split(',')
    .map((pair) => pair.split('=').map((word) => word.trim()))
    .filter(([key]) => key);
  const wanted = {
    rendererType: text('renderer'),
    waitSeconds: Number(text('wait') || 0),
    model: text('model'),
    pool: text('pool'),
    sessionToken: text('token'),
    library: text('library'),
    labels: pairs.length > 0 ? Object.fromEntries(pairs.map(([key, value = '']) => [key, value])) : '',
  };
  return Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== ''));
}

// A page that goes takes its viewers with it.
addEventListener('pagehide', () => {
  for (const viewer of viewers) {
    if (!viewer.over && viewer.card.dataset.spawn) stop(viewer.card.dataset.spawn, { token: who.credential }).catch(() => {});
  }
});

const asked = new URLSearchParams(location.search);
for (const [name, field] of [['viewer', 'library'], ['model', 'model'], ['renderer', 'renderer'], ['token', 'token']]) {
  if (asked.has(name)) byId(field).value = asked.get(name);
}
byId('more').open = asked.has('viewer') || asked.has('token');

/** The same in a few lines. A real page gets its token from its own backend. */
function example() {
  const signedIn = who.credential !== undefined;
  const token = signedIn ? "\nconst token = async () => (await fetch('/farm-token', { method: 'POST' })).text();" : '';
  say(
    byId('example'),
    `import { spawn, mount } from '${new URL('client.js', document.baseURI)}';
${token}
const spawned = await spawn({ ${signedIn ? 'token, ' : ''}waitSeconds: 30 });

const shown = mount(spawned, {
  vendor: Communicator,
  containerId: 'viewer',${signedIn ? '\n  token,' : ''}
});

const { text } = await shown.ended;
alert(text);`,
  );
}
example();
