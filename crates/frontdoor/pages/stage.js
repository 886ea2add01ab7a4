/**
 * Runs the vendor's viewer in a frame without an origin. The page around it says what to load and where to connect, and is
 * told how it went; see `viewer.js` for the other side.
 */

'use strict';

(() => {
  const tell = (what, detail) => parent.postMessage({ what, detail }, '*');
  const say = (text) => {
    document.getElementById('said').textContent = text;
  };
  let viewer;

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
    const vendor = await load(library);
    if (!vendor?.WebViewer) throw new Error(`there is no WebViewer in ${library}`);
    viewer = new vendor.WebViewer({
      containerId: 'viewer',
      endpointUri: endpoint,
      // The engine lies beside the library.
      enginePath: library.replace(/\/[^/]*$/, ''),
      ...(model && { model }),
      ...(token && { sessionToken: token }),
      ...(rendererType === 'ssr' && vendor.RendererType && { rendererType: vendor.RendererType.Server }),
    });
    viewer.setCallbacks?.({
      sceneReady: () => tell('open'),
      modelStructureReady: () => tell('model'),
      modelLoadFailure: (_, reason) => tell('refused', String(reason)),
      websocketConnectionClosed: () => tell('closed'),
      timeout: () => tell('closed'),
    });
    say('');
    tell('started');
    await viewer.start();
  }

  addEventListener('message', ({ source, data }) => {
    if (source !== parent) return;
    if (data.what === 'start') {
      start(data).catch((error) => {
        say(error.message);
        tell('refused', error.message);
      });
    }
    if (data.what === 'close') viewer?.shutdown?.();
  });
  tell('here');
})();
