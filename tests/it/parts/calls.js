// Calls by Node's http client over kept-alive connections: ADDRESS HOST PATH COUNT AT_ONCE.
// Prints the answers as a JSON array, in the order of the requests.
'use strict';
const http = require('http');

const [address, host, path, count, atOnce] = process.argv.slice(2);
const [hostname, port] = address.split(':');
const agent = new http.Agent({ keepAlive: true, maxSockets: Number(atOnce) });

function call(number) {
  return new Promise((done) => {
    const options = { hostname, port, path, agent, timeout: 20000, headers: { host, 'x-number': String(number) } };
    const request = http.get(options, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', (error) => done({ error: String(error) }));
      response.on('end', () => done({
        status: response.statusCode,
        headers: response.headers,
        body: Buffer.concat(chunks).toString(),
      }));
    });
    request.on('timeout', () => request.destroy(new Error('timeout')));
    request.on('error', (error) => done({ error: String(error) }));
  });
}

Promise.all(Array.from({ length: Number(count) }, (_, number) => call(number))).then((answers) => {
  console.log(JSON.stringify(answers));
  agent.destroy();
});
