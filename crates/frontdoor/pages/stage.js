/**
 * Runs the vendor's viewer in a frame without an origin. The page around it says what to load and where to connect, and gets
 * reports; see `viewer.js` for the other side.
 *
 * The vendor's viewer is silent about much that goes wrong: an engine that cannot be fetched leaves it waiting for ever. So this
 * file watches what the frame loads and its WebSocket, and reports the cause and the remedy.
 */

'use strict';

(() => {
  /** A viewer that has not opened a connection by then will not. */
  const CONNECT_MS = 20_000;
  const native = { fetch: globalThis.fetch.bind(globalThis), WebSocket: globalThis.WebSocket };
  const report = (what, detail) => parent.postMessage({ what, detail }, '*');
  const say = (text) => {
    document.getElementById('said').textContent = text;
  };
  let viewer;
  let timer;
  let broken = false;
  /** The search for a cause. */
  let searching;

  /** The first failure is the cause; those that follow from it are not reported. */
  function fail(title, advice, detail) {
    if (broken) return;
    broken = true;
    clearTimeout(timer);
    say(title);
    report('broken', { title, advice, detail });
  }

  /** Finds out why an address could not be loaded: browsers give scripts no reason. The first failure counts. */
  function explain(address, error) {
    const url = new URL(address, location.href);
    if (!url.protocol.startsWith('http')) return undefined;
    searching ??= search(url, error);
    return searching;
  }

  async function search(url, error) {
    const readable = await native.fetch(url, { cache: 'no-store' }).catch(() => undefined);
    if (readable?.ok) {
      fail('The viewer library does not run', 'The browser refused it: is it the library for this browser, and whole?', `${url}: ${error?.message ?? 'not run'}`);
    } else if (readable) {
      fail('The viewer library is incomplete', 'Check its address. The engine files must lie beside the library.', `${url} is answered with ${readable.status}.`);
    } else if (await native.fetch(url, { cache: 'no-store', mode: 'no-cors' }).catch(() => undefined)) {
      fail('The viewer library is served without CORS', `${url.host} must send “Access-Control-Allow-Origin: *” with the library and the engine files beside it.`, `${url} is there, and its server does not allow this page to read it.`);
    } else {
      fail('The viewer library cannot be loaded', `Check its address, and that ${url.host} can be reached from this browser. A page that came by https loads nothing by http.`, `${url} does not answer.`);
    }
  }

  addEventListener('error', ({ target }) => target?.src && explain(target.src), true);
  globalThis.fetch = (what, options) =>
    native.fetch(what, options).catch((error) => {
      explain(what.url ?? what, error);
      throw error;
    });
  const open = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function (method, address, ...more) {
    this.addEventListener('error', () => explain(address));
    return open.call(this, method, address, ...more);
  };
  globalThis.WebSocket = class extends native.WebSocket {
    constructor(...details) {
      super(...details);
      this.addEventListener('open', () => {
        clearTimeout(timer);
        report('open');
      });
      this.addEventListener('message', ({ data }) => heard(data));
      this.addEventListener('close', ({ code }) => {
        clearTimeout(timer);
        report('closed', code);
      });
    }
  };

  /** The simulator says what it is. Events are JSON, as text or as bytes; a zero begins a picture. */
  function heard(data) {
    const bytes = typeof data === 'string' ? undefined : new Uint8Array(data);
    if (bytes?.[0] === 0) report('picture', bytes.length);
    if (bytes && bytes[0] !== 0x7b) return;
    try {
      const { simulator } = JSON.parse(bytes ? new TextDecoder().decode(bytes) : data);
      if (simulator) report('simulator');
    } catch {
      // The vendor's own.
    }
  }

  async function load(library) {
    if (/\.mjs($|\?)/.test(library)) {
      const module = await import(library);
      return module.WebViewer ? module : module.Communicator;
    }
    await new Promise((resolve, reject) => {
      const script = document.createElement('script');
      script.src = library;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${library} cannot be loaded`));
      document.head.append(script);
    });
    return globalThis.Communicator;
  }

  async function start({ library, endpoint, rendererType, token, model }) {
    say('Loading the viewer…');
    let vendor;
    try {
      vendor = await load(library);
    } catch (error) {
      await explain(library, error);
      return;
    }
    if (!vendor?.WebViewer) {
      fail('That is not the viewer library', 'Name hoops_web_viewer.js, or the module hoops-web-viewer.mjs.', `There is no WebViewer in ${library}`);
      return;
    }
    viewer = new vendor.WebViewer({
      containerId: 'viewer',
      endpointUri: endpoint,
      // The engine lies beside the library.
      enginePath: library.replace(/\/[^/]*$/, ''),
      // Without a model the viewer does not connect.
      model: model || '_empty',
      ...(token && { sessionToken: token }),
      ...(rendererType === 'ssr' && vendor.RendererType && { rendererType: vendor.RendererType.Server }),
    });
    viewer.setCallbacks?.({
      sceneReady: () => report('open'),
      modelStructureReady: () => report('model'),
      modelLoadFailure: (_, reason) => report('refused', String(reason)),
      websocketConnectionClosed: () => report('closed'),
      timeout: () => report('closed'),
    });
    timer = setTimeout(() => {
      fail('The viewer does not connect', 'It was loaded and opened no connection. The browser’s console says more.', '');
    }, CONNECT_MS);
    await viewer.start();
    if (!broken) say('');
  }

  addEventListener('message', ({ source, data }) => {
    if (source !== parent) return;
    if (data.what === 'start') {
      start(data).catch(async (error) => {
        // It may have failed for something that could not be loaded.
        await searching;
        fail('The viewer does not start', 'The browser’s console says more.', error.message);
      });
    }
    if (data.what === 'close') viewer?.shutdown?.();
  });
  report('here');
})();
