/** The first words of the vendor's viewer, for farms without the vendor's library at hand. */

import { make } from './dom.js';

/** The versions of the current viewer; a server of another version refuses it, as it should. */
const VERSIONS = { stream_version: '76', network_version: '2867920930' };

const encode = (message) => new TextEncoder().encode(JSON.stringify(message));

/**
 * Connects to a spawn. `report(what, detail)`: `open` when the connection stands, `model` when the server has opened the model,
 * `picture` for every picture of a server-side renderer, `simulator` when the server is one, `refused` with the server's reason,
 * `closed` at the end. Pictures are drawn in `place`.
 */
export function connect(endpoint, { rendererType, token, place, report }) {
  const serverSide = rendererType === 'ssr';
  // The vendor's server closes on a client-side viewer that offers a subprotocol, and on a server-side one that does not.
  let socket;
  try {
    socket = serverSide ? new WebSocket(endpoint, 'binary') : new WebSocket(endpoint);
  } catch (error) {
    // A page that came by https may not open a connection without TLS.
    queueMicrotask(() => report('closed', error.message));
    return { close: () => {} };
  }
  const draw = serverSide ? screen(place) : undefined;
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => {
    report('open');
    for (const frame of serverSide ? rendering(token) : opening(token)) socket.send(frame);
  };
  socket.onmessage = async ({ data }) => {
    if (typeof data === 'string') heard(JSON.parse(data), report);
    else if (new Uint8Array(data)[0] === 0x7b) heard(JSON.parse(new TextDecoder().decode(data)), report);
    else if (draw) {
      try {
        await draw(data);
        report('picture', data.byteLength);
      } catch (error) {
        report('refused', `a picture that cannot be shown (${error.message})`);
      }
      // The next picture comes after this.
      if (socket.readyState === 1) socket.send(JSON.stringify({ command: 'ACK' }));
    }
  };
  socket.onclose = ({ code }) => report('closed', code);
  return { close: () => socket.close(1000) };
}

function heard(message, report) {
  const command = String(message.command ?? message.event ?? '').toUpperCase();
  if (message.simulator) report('simulator');
  if (command.includes('FAILED')) report('refused', message.reason ?? message.data?.reason ?? command);
  else if (command.includes('SUCCEEDED') || command === 'SESSION_STARTED') report('model', message.model_name);
}

/** Draws pictures: eight bytes, the last four of them the length of a text; the text; a JPEG. */
function screen(place) {
  const canvas = make('canvas', { role: 'img', 'aria-label': 'Picture of the server', hidden: true });
  place.replaceChildren(canvas);
  return async (data) => {
    const about = new DataView(data).getUint32(4);
    const picture = await createImageBitmap(new Blob([data.slice(8 + about)], { type: 'image/jpeg' }));
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.getContext('2d').drawImage(picture, 0, 0);
    canvas.hidden = false;
    picture.close();
  };
}

function opening(token = '') {
  return [
    encode({ command: 'OPEN_MODEL', model_name: '_empty', ...VERSIONS, session_token: token }),
    encode({ command: 'CONFIGURE_STREAM' }),
    encode({ command: 'SEND_STREAM' }),
  ];
}

function rendering(token) {
  const [width, height] = [800, 600];
  const size = { width, height, layoutWidth: width, layoutHeight: height };
  const first = { command: 'SERVER_SIDE_RENDER', ...size, model: '_empty', networkVersion: VERSIONS.network_version };
  return [
    JSON.stringify({ ...first, ...(token && { sessionToken: token }) }),
    JSON.stringify({ command: 'SERVER_SIDE_CLIENT_INFO', ...size, encoding: 'jpeg' }),
    JSON.stringify({ command: 'SERVER_SETTINGS' }),
  ];
}
