// A conversation by npm's `ws`: text, bytes, a ping, a close with a code. ws_client.js URL
'use strict';
const { WebSocket } = require('ws');

const socket = new WebSocket(process.argv[2], { handshakeTimeout: 20000 });
const long = Buffer.alloc(300000, 'x');
const heard = [];
socket.on('open', () => socket.send('hello'));
socket.on('message', (data, binary) => {
  heard.push(`${binary ? 'bytes' : 'text'} ${data.length}`);
  if (heard.length === 1) socket.send(long);
  if (heard.length === 2) socket.ping('are you there');
});
socket.on('pong', (data) => {
  heard.push(`pong ${data}`);
  socket.close(4001, 'done');
});
socket.on('close', (code) => console.log('ok', heard.join(', '), code));
socket.on('error', (error) => console.log('error', error.message));
