/**
 * Hatchery for web clients: spawn a stream cache server, show it, stop it, and follow what happens to it.
 *
 *     import { spawn, mount } from 'https://farm.example.com/client.js';
 *
 *     const spawned = await spawn({ rendererType: 'ssr', waitSeconds: 30 });
 *     const shown = mount(spawned, { vendor: Communicator, containerId: 'viewer' });
 *     const { text } = await shown.ended;
 *
 * Where the front door authenticates callers, pass `token`: a text, or better a function that asks the page's own backend,
 * which knows its user and keeps the key that tokens are made with:
 *
 *     const token = async () => (await fetch('/farm-token', { method: 'POST' })).text();
 *     const spawned = await spawn({ token });
 *     const feed = live({ token });
 *
 * No dependency, no build step. The types are in `client.d.ts`. Without `base`, the front door is the one that this file came
 * from; of several, one that fails is passed over for the next.
 *
 * The sources are the modules of the directory `client/`. A front door serves them joined into one file, so that a page gets
 * the parts of one version, also while a farm is upgraded, and so that proxies need to let one path through.
 *
 * @module
 */

export { HatcheryError, ProblemError, NetworkError, TokenError, RefusedError, DeadlineError } from './errors.js';
export { spawn, stop } from './spawn.js';
export { Live, live } from './live.js';
export { explainExit, mount } from './mount.js';
