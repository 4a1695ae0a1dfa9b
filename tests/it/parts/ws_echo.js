// A WebSocket server on npm's `ws` that says every message back. Prints its port.
'use strict';
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: 64 << 20 });
server.on('connection', (socket) => {
  socket.on('message', (data, binary) => socket.send(data, { binary }));
  // A client that breaks the protocol ends its connection, not the server.
  socket.on('error', () => {});
});
server.on('listening', () => console.log(server.address().port));
