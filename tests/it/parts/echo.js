// A server on Node's http that tells each request back as JSON. Prints its port.
'use strict';
const http = require('http');

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({
      method: request.method,
      url: request.url,
      headers: request.headers,
      body: Buffer.concat(chunks).toString(),
      trailers: request.trailers,
    }));
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
