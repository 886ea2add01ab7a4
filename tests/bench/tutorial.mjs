// A spawner as the vendor's tutorial "Build a streaming service" builds it: POST /spawn starts a server on the next free port and answers
// when that has reported `ready` to POST /liveliness/ID?liveliness=ready. Below EXPRESS stands node_modules with Express.
// node tutorial.mjs PORT FIRST_SERVER_PORT SERVER_PORTS EXECUTABLE LICENSE_FILE EXPRESS
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';

const [port, first, count, executable, license, modules] = process.argv.slice(2);
const express = createRequire(`${modules}/`)('express');
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
  response.status(status).json(body);
}

const app = express();
app.use(express.json());
app.post('/spawn', (request, response) => start(request.body.rendererType ?? 'csr', response));
app.post('/liveliness/:id', (request, response) => {
  alive(request.params.id, request.query.liveliness);
  response.status(200).end();
});
app.listen(Number(port), '127.0.0.1');
