// A proxy that adds the hub's key to each request: the conformance suite can't send one.
// node add_key.mjs TARGET KEY_FILE; prints its port.
import fs from 'node:fs';
import http from 'node:http';

const [target, keyFile] = process.argv.slice(2);
const key = fs.readFileSync(keyFile, 'utf8').trim();
const { hostname, port } = new URL(target);
const server = http.createServer((request, response) => {
  const headers = { ...request.headers, authorization: `Bearer ${key}` };
  const upstream = http.request({ hostname, port, path: request.url, method: request.method, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  upstream.on('error', () => response.destroy());
  // What goes away here goes away there.
  response.on('close', () => upstream.destroy());
  request.pipe(upstream);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
