// Two requests of node on one connection: port and certificate are arguments.
const fs = require('fs');
const https = require('https');
const marker = 'ctrace-request-a7c31e';
const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
const options = { agent, port: process.argv[2], ca: fs.readFileSync(process.argv[3]), method: 'POST', path: '/' + marker };

function ask(body, then) {
  const request = https.request('https://localhost/', options, (response) => {
    let length = 0;
    response.on('data', (data) => { length += data.length; });
    response.on('end', () => {
      if (length < 70000) throw new Error('only ' + length + ' bytes');
      then();
    });
  });
  request.end(body);
}

ask(marker.padEnd(40000, 'abcdefghij'), () => ask('again', () => agent.destroy()));
