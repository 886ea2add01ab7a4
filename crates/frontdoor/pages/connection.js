/** The first words of the vendor's viewer, for farms without the vendor's library at hand. */

/** What the current viewer says of itself; a server of another version refuses it, as it should. */
const VERSIONS = { stream_version: '76', network_version: '2867920930' };

const encode = (message) => new TextEncoder().encode(JSON.stringify(message));

/**
 * Connects to a spawn. `told(what, detail)`: `open` when the connection stands, `model` when the server has opened the model,
 * `picture` for every picture of a server-side renderer, `refused` with the server's reason, `closed` at the end.
 */
export function connect(endpoint, { rendererType, token, told }) {
  // The vendor's server closes on a client-side viewer that offers a subprotocol, and on a server-side one that does not.
  let socket;
  try {
    socket = rendererType === 'ssr' ? new WebSocket(endpoint, 'binary') : new WebSocket(endpoint);
  } catch (error) {
    // A page that came by TLS may not connect to a node without it.
    told('refused', error.message);
    return { close: () => {} };
  }
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => {
    told('open');
    for (const frame of rendererType === 'ssr' ? serverSide(token) : clientSide(token)) socket.send(frame);
  };
  socket.onmessage = ({ data }) => {
    const first = new Uint8Array(data)[0];
    if (first === 0x7b) heard(JSON.parse(new TextDecoder().decode(data)), told);
    else if (rendererType === 'ssr') told('picture', data.byteLength);
    if (rendererType === 'ssr') socket.send(JSON.stringify({ command: 'ACK' }));
  };
  socket.onclose = ({ code }) => told('closed', code);
  return { close: () => socket.close(1000) };
}

function heard(message, told) {
  const command = String(message.command ?? message.event ?? '').toUpperCase();
  if (command.includes('FAILED')) told('refused', message.reason ?? command);
  else if (command.includes('SUCCEEDED') || command.includes('OPENED')) told('model', message.model_name);
}

function clientSide(token = '') {
  return [
    encode({ command: 'OPEN_MODEL', model_name: '_empty', ...VERSIONS, session_token: token }),
    encode({ command: 'CONFIGURE_STREAM' }),
    encode({ command: 'SEND_STREAM' }),
  ];
}

function serverSide(token) {
  const [width, height] = [800, 600];
  const size = { width, height, layoutWidth: width, layoutHeight: height };
  const first = { command: 'SERVER_SIDE_RENDER', ...size, model: '_empty', networkVersion: VERSIONS.network_version };
  return [
    JSON.stringify({ ...first, ...(token && { sessionToken: token }) }),
    JSON.stringify({ command: 'SERVER_SIDE_CLIENT_INFO', encoding: 'jpeg' }),
    JSON.stringify({ command: 'SERVER_SETTINGS' }),
  ];
}
