// A spawner as the vendor's tutorial "Build a streaming service" builds it, with Node's own http in place of Express: POST /spawn starts a
// server on the next free port and answers when that has reported `ready` to POST /liveliness/ID?liveliness=ready.
// node tutorial.mjs PORT FIRST_SERVER_PORT SERVER_PORTS EXECUTABLE LICENSE_FILE
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import http from 'node:http';

const [port, first, count, executable, license] = process.argv.slice(2);
const free = [];
const servers = new Map();
let next = Number(first);

function start(rendererType, response) {
  const wsPort = free.pop() ?? next++;
  if (wsPort >= Number(first) + Number(count)) {
    free.push(wsPort);
    return answer(response, 503, { result: 'error', reason: 'no port is free' });
  }
  const id = randomUUID();
  const args = ['--id', id, '--sc-port', String(wsPort), '--license-file', license, `--${rendererType}`, 'true',
    '--liveliness-endpoint', `http://127.0.0.1:${port}/liveliness`];
  const child = spawn(executable, args, { stdio: 'ignore' });
  servers.set(id, { wsPort, response });
  child.on('exit', () => {
    servers.get(id)?.response?.destroy();
    servers.delete(id);
    free.push(wsPort);
  });
}

function alive(id, what) {
  const server = servers.get(id);
  if (what !== 'ready' || !server?.response) return;
  answer(server.response, 200, { result: 'ok', serviceId: id, endpoints: { ws: `ws://127.0.0.1:${server.wsPort}` } });
  server.response = null;
}

function answer(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  let body = '';
  request.on('data', (chunk) => { body += chunk; });
  request.on('end', () => {
    if (url.pathname === '/spawn') return start(JSON.parse(body).rendererType ?? 'csr', response);
    const [, , id] = url.pathname.split('/');
    alive(id, url.searchParams.get('liveliness'));
    response.writeHead(200).end();
  });
}).listen(Number(port), '127.0.0.1');
