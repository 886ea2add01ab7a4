/**
 * The vendor's viewer on a spawn: connects it, and says in words how it ended.
 *
 * The viewer learns that its connection is closed and not why; the farm knows. So `mount` follows the spawn on the live feed, and
 * when the connection is gone it waits a moment for the farm's reason. `onStatus` hears each state, so that a page never stands still
 * without a word.
 *
 *     connecting ─▶ shown ─┬─ the server ends, is stopped, its node is drained …  (live feed: exit)
 *                          ├─ the connection is lost                              (the viewer; then the feed, or nothing)
 *                          ├─ the server refuses the model or the viewer          (the viewer)
 *                          └─ close()                                             (the page)
 */

import { Live } from './live.js';
import { stop } from './spawn.js';

/** How long the farm's reason is waited for once the connection is closed. */
const REASON_MS = 10_000;

/** Ends that a user of the page meets without anything having failed, as a sentence for them. */
const ENDINGS = {
  disconnected: 'The connection to the server was lost.',
  expired: 'The time of this session is over. A new one can be started.',
  idle: 'The session was ended, because nothing was done in it for a long time. A new one can be started.',
  drained: 'The server ended: its node was drained. Another node has the next session.',
};

const EXITS = {
  disconnected: 'its viewer left',
  'initial-use-timeout': 'no viewer ever connected',
  failed: 'it failed',
  signaled: 'it was killed',
  'ready-timeout': 'it was not ready in time',
  'liveliness-lost': 'it went silent and was ended',
  stopped: 'it was stopped on request',
  expired: 'its time was over',
  idle: 'its viewer sent nothing for too long',
  drained: 'its node was drained',
  cancelled: 'its caller went away before the answer',
  'node-lost': 'its node went away',
};

/**
 * How a spawn ended, as a clause: `it was killed (SIGSEGV)`.
 *
 * @param {import('./client.d.ts').Exit} [exit]
 */
export function explainExit(exit) {
  if (!exit) return 'it ended';
  const more = [exit.signal, exit.code === undefined ? undefined : `exit code ${exit.code}`, exit.text];
  const said = more.filter((word) => word && word !== exit.reason);
  return (EXITS[exit.reason] ?? exit.reason) + (said.length > 0 ? ` (${said.join(', ')})` : '');
}

/**
 * Shows a spawn in the vendor's viewer. `vendor` is the vendor's library (`Communicator`, or its module); other options are the
 * viewer's own.
 *
 * @param {import('./client.d.ts').SpawnAnswer} spawned
 * @param {import('./client.d.ts').MountOptions} options
 * @returns {import('./client.d.ts').Mounted}
 */
export function mount(spawned, { vendor, base, token, feed, callbacks, onStatus, ...options }) {
  const own = feed === undefined ? new Live({ base, token }) : undefined;
  let settle;
  let timer;
  let subscription;
  const ended = new Promise((resolve) => {
    settle = resolve;
  });
  const viewer = new vendor.WebViewer({
    ...(spawned.rendererType === 'ssr' && vendor.RendererType && { rendererType: vendor.RendererType.Server }),
    ...options,
    endpointUri: spawned.endpoint,
  });
  let over = false;
  /** What the farm has said of the node meanwhile, as a clause. */
  let away = '';
  const status = (state, text) => onStatus?.({ state, text });

  /** The first end counts. A spawn whose end the farm has not reported is stopped, so that its slot comes back at once. */
  const end = (ending) => {
    if (over) return;
    over = true;
    clearTimeout(timer);
    subscription?.unsubscribe();
    own?.close();
    if (!ending.exit) stop(spawned.id, { base, token }).catch(() => {});
    if (ending.reason === 'closed') (viewer.shutdown ?? viewer.closeConnection)?.call(viewer);
    status('ended', ending.text);
    settle(ending);
  };
  const exited = (exit) => {
    // The viewer has not left by itself: what the server took for that was the loss of the connection.
    const text = ENDINGS[exit.reason] ?? `The server ended: ${explainExit(exit)}.`;
    end({ reason: exit.reason, text, exit, again: exit.reason !== 'stopped' });
  };
  const closed = (text, reason = 'connection-lost') => {
    if (timer !== undefined || over) return;
    status('lost', `${text} Finding out why…`);
    timer = setTimeout(() => end({ reason, text: away ? `${text.slice(0, -1)}: ${away}.` : text, again: true }), REASON_MS);
  };

  const mine = {
    modelLoadFailure: (_, reason) => {
      // The vendor's words for a handshake that failed.
      if (/WebSocket connection failed/i.test(reason)) closed(`The server at ${spawned.endpoint} cannot be reached.`, 'unreachable');
      else end({ reason: 'refused', text: `The server did not open the model: ${reason}`, again: false });
    },
    websocketConnectionClosed: () => closed('The connection to the server was lost.'),
    timeout: () => end({ reason: 'idle', text: 'The viewer was not used for a long time and has disconnected.', again: true }),
  };
  const shown = callbacks?.sceneReady;
  const both = (name) => (...details) => {
    mine[name](...details);
    callbacks?.[name]?.(...details);
  };
  const sceneReady = (...details) => {
    if (timer === undefined && !over) status('shown', 'Connected.');
    shown?.(...details);
  };
  viewer.setCallbacks({ ...callbacks, sceneReady, ...Object.fromEntries(Object.keys(mine).map((name) => [name, both(name)])) });
  subscription = (feed ?? own).subscribe(`spawn:${spawned.id}`, {
    onSnapshot: (known) => known?.exit && exited(known.exit),
    onEvent: (event) => {
      if (event.kind === 'spawn.exited') exited(event.exit);
      else if (event.kind === 'spawn.lost') away = 'its node cannot be reached';
      else if (event.kind === 'spawn.ready') away = '';
    },
  });
  status('connecting', 'Connecting to the server…');
  Promise.resolve()
    .then(() => viewer.start())
    .catch((error) => end({ reason: 'refused', text: `The viewer did not start: ${error.message}`, again: false }));
  return {
    viewer,
    ended,
    close: () => end({ reason: 'closed', text: 'It was closed here.', again: false }),
  };
}
