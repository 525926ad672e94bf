// A server and a client of HTTP with node's own modules, each of which logs what it has sent and received; what
// they do is as in http-peers.py. Arguments: `server` or `client`, and the protocol (`h1` or `h2`). `fetch` is a
// client with the web's interface, for runtimes that imitate node. Both speak TLS, unless the environment has
// CLEARTEXT.
import fs from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';

const PORT = 8443;
const CLEARTEXT = process.env.CLEARTEXT !== undefined;
const web1 = CLEARTEXT ? http : https;
const ORIGIN = `${CLEARTEXT ? 'http' : 'https'}://localhost:${PORT}`;
const CONNECTIONS = 3;
const WORKERS = 8;
const PIECE = 3000;
const MESSAGES = 24;
const EVENTS = 20;

const log = (method, target, status, request, response) =>
  console.log(JSON.stringify({ method, target, status, request, response }));
// Which exchange a body belongs to, it says itself.
const bodyOf = (target, size) => Buffer.from(target.padEnd(size, '.').slice(0, size));

async function go() {
  while (!fs.existsSync('/plan/go')) await sleep(10);
}

function* pieces(body) {
  for (let at = 0; at < body.length; at += PIECE) yield body.subarray(at, at + PIECE);
}

async function serve(request, response) {
  const { method, url: target } = request;
  const [, status, size, kind] = target.split('/');
  let received = 0;
  for await (const data of request) received += data.length;
  const empty = status === '204' || status === '304';
  const headers = kind === 'length' && !empty ? { 'content-length': size } : {};
  response.writeHead(Number(status), headers);
  if (method === 'HEAD' || empty) {
    response.end();
    return log(method, target, Number(status), received, 0);
  }
  const body = bodyOf(target, Number(size));
  let number = 0;
  for (const piece of pieces(body)) {
    response.write(piece);
    if (kind === 'held' && number === 0) {
      console.log('held');
      await go();
    }
    number += 1;
  }
  response.end();
  log(method, target, Number(status), received, body.length);
}

// Events, as in http-peers.py.
async function serveEvents(request, response) {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (let number = 0; number < EVENTS; number += 1) {
    if (number === EVENTS / 2) {
      console.log('held');
      await go();
    }
    const first = `event ${number} of ${request.url}`;
    const pieces = [`id: ${number}\nevent: tick\ndata: ${first}\n`, number % 2 ? 'data: second line\n\n' : '\n'];
    pieces.forEach((piece) => response.write(piece));
    const data = first + (number % 2 ? '\nsecond line' : '');
    console.log(JSON.stringify({ event: 'tick', data, number: number + 1, size: pieces.join('').length }));
    await sleep(1);
  }
  response.end();
}

function server(protocol, handler) {
  const pem = fs.readFileSync('/server.pem');
  const create2 = CLEARTEXT ? http2.createServer : http2.createSecureServer;
  const create = protocol === 'h2' ? create2 : web1.createServer;
  create({ key: pem, cert: pem }, handler).listen(PORT, () => console.log('listening', PORT));
}

async function run(exchange) {
  const plan = fs.readFileSync('/plan/requests.jsonl', 'utf8').trim().split('\n').map((line) => JSON.parse(line));
  let next = 0;
  const worker = async (number) => {
    while (next < plan.length) {
      if (next >= plan.length / 2) await go();
      const step = plan[next++];
      if (step === undefined) return;
      const body = step.body === null ? null : bodyOf(step.target, step.body);
      const { status, received } = await exchange(step, body, number);
      log(step.method, step.target, status, step.body ?? 0, received);
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, (_, number) => worker(number)));
}

async function h1() {
  const agent = new web1.Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  await run(({ method, target, chunked }, body) => new Promise((resolve, reject) => {
    const headers = body !== null && !chunked ? { 'content-length': body.length } : {};
    const request = web1.request(ORIGIN + target, { agent, method, headers }, async (response) => {
      let received = 0;
      for await (const data of response) received += data.length;
      resolve({ status: response.statusCode, received });
    });
    request.on('error', reject);
    if (chunked) for (const piece of pieces(body)) request.write(piece);
    request.end(chunked ? undefined : body ?? undefined);
  }));
  agent.destroy();
}

async function h2() {
  const sessions = Array.from({ length: CONNECTIONS }, () => http2.connect(ORIGIN));
  await run(({ method, target, chunked }, body, worker) => new Promise((resolve, reject) => {
    const length = body !== null && !chunked ? { 'content-length': body.length } : {};
    const headers = { ':method': method, ':path': target, ...length };
    const stream = sessions[worker % CONNECTIONS].request(headers, { endStream: body === null });
    let status = 0;
    let received = 0;
    stream.on('response', (fields) => { status = fields[':status']; });
    stream.on('data', (data) => { received += data.length; });
    stream.on('end', () => resolve({ status, received }));
    stream.on('error', reject);
    if (chunked) for (const piece of pieces(body)) stream.write(piece);
    if (body !== null) stream.end(chunked ? undefined : body);
  }));
  sessions.forEach((session) => session.close());
}

async function web() {
  await run(async ({ method, target }, body) => {
    const response = await fetch(ORIGIN + target, { method, body: body ?? undefined });
    const received = (await response.arrayBuffer()).byteLength;
    return { status: response.status, received };
  });
}

// Messages of WebSocket, as in http-peers.py.
const logMessage = (direction, connection, data, isBinary) => console.log(JSON.stringify({
  direction, connection, type: isBinary ? 'binary' : 'text', data: Buffer.from(data).toString(isBinary ? 'base64' : 'utf8'),
}));

function websocketServer() {
  const { WebSocketServer } = createRequire('/usr/lib/')('/usr/lib/ws/index.js');
  const pem = fs.readFileSync('/server.pem');
  const server = web1.createServer({ key: pem, cert: pem });
  // Also short messages are compressed, and refer to those before them.
  new WebSocketServer({ server, perMessageDeflate: { threshold: 0 } }).on('connection', (socket, request) => {
    socket.on('message', (data, isBinary) => {
      logMessage('receive', request.url, data, isBinary);
      socket.send(data, { binary: isBinary });
      logMessage('transmit', request.url, data, isBinary);
    });
  });
  server.listen(PORT);
}

const messageOf = (connection, number) => (number % 4 === 3
  ? Buffer.from(Array.from({ length: 640 * number }, (_, at) => (at * at * 31 + number) % 251))
  : `message ${number} of ${connection}: ` + 'coffee and tea, '.repeat((number * 40) % 700));

async function talk(name) {
  const socket = new WebSocket(`${CLEARTEXT ? 'ws' : 'wss'}://localhost:${PORT}${name}`);
  socket.binaryType = 'arraybuffer';
  await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
  for (let number = 0; number < MESSAGES; number += 1) {
    if (number === MESSAGES / 2) {
      console.log('halfway');
      await go();
    }
    const message = messageOf(name, number);
    const isBinary = typeof message !== 'string';
    const answer = new Promise((resolve) => { socket.onmessage = resolve; });
    socket.send(message);
    logMessage('transmit', name, message, isBinary);
    logMessage('receive', name, (await answer).data, isBinary);
  }
  await new Promise((resolve) => { socket.onclose = resolve; socket.close(1000, 'bye'); });
}

async function websockets() {
  await Promise.all(Array.from({ length: CONNECTIONS }, (_, number) => talk(`/socket/${number}`)));
}

const [, , side, protocol] = process.argv;
if (side === 'server') server(protocol, serve);
else if (side === 'events-server') server(protocol, serveEvents);
else if (side === 'websockets-server') websocketServer();
else if (side === 'websockets') await websockets();
else if (side === 'fetch') await web();
else await (protocol === 'h2' ? h2 : h1)();
