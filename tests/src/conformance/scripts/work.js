const http = require('http'), net = require('net'), fs = require('fs'), os = require('os'), zlib = require('zlib'), crypto = require('crypto');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { spawn, execFile, fork, spawnSync } = require('child_process');
const { promisify } = require('util');
if (!isMainThread) {
  let sum = 0; for (let i = 0; i < workerData; i++) sum += i;
  const view = new Int32Array(workerData === 3 ? new SharedArrayBuffer(4) : 1); void view;
  parentPort.postMessage(sum);
} else if (process.argv[2] === 'child') {
  process.on('message', (m) => { process.send(m * 2); process.disconnect(); });
} else main().catch((e) => { console.log('error:', e); process.exitCode = 1; });

async function main() {
  console.log('process:', spawnSync('sh', ['-c', 'cat; exit 3'], { input: 'fed' }).status);
  console.log('command: ' + (await promisify(execFile)('echo', ['out'])).stdout.trim());
  const killed = spawn('sleep', ['100']); killed.kill('SIGTERM');
  console.log('killed: ' + (await new Promise((done) => killed.on('exit', (c, s) => done(s)))));
  const child = fork(__filename, ['child']); child.send(21);
  console.log('fork: ' + (await new Promise((done) => child.on('message', done))));
  const sums = await Promise.all([10, 1000, 1e6, 1e7].map((n) => new Promise((done, fail) => { const w = new Worker(__filename, { workerData: n }); w.on('message', done); w.on('error', fail); })));
  console.log('workers: ' + sums.join(' '));
  const terminated = new Worker('for (;;) ;', { eval: true }); await new Promise((done) => terminated.on('online', done));
  console.log('terminated worker: ' + (await terminated.terminate()));
  const server = http.createServer((q, s) => { let n = 0; q.on('data', (d) => (n += d.length)); q.on('end', () => s.end(`${q.method} ${q.url} ${n}`)); });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const port = server.address().port;
  const ask = (path, body) => new Promise((done, fail) => { const q = http.request({ port, host: '127.0.0.1', path, method: body ? 'POST' : 'GET' }, (s) => { let t = ''; s.on('data', (d) => (t += d)); s.on('end', () => done(t)); }); q.on('error', fail); q.end(body); });
  for (let i = 0; i < 3; i++) console.log('http: ' + (await ask('/' + i)));
  console.log('http: ' + (await ask('/post', 'x'.repeat(300000))));
  console.log('many: ' + (await Promise.all([...Array(50).keys()].map((i) => ask('/' + i)))).length);
  server.close(); server.closeAllConnections?.();
  const unix = net.createServer((c) => c.pipe(c)).listen('/tmp/node.sock'); await new Promise((done) => unix.on('listening', done));
  console.log('unix: ' + (await new Promise((done) => { const c = net.connect('/tmp/node.sock'); c.end('hello'); let t = ''; c.on('data', (d) => (t += d)); c.on('end', () => done(t)); }))); unix.close();
  console.log('refused: ' + (await new Promise((done) => net.connect(1, '127.0.0.1').on('error', (e) => done(e.code)))));
  fs.writeFileSync('/tmp/node.file', 'x'.repeat(100000)); console.log('file: ' + (await fs.promises.stat('/tmp/node.file')).size);
  console.log('missing: ' + (await fs.promises.readFile('/nowhere').catch((e) => e.code)));
  const watched = new Promise((done) => { const w = fs.watch('/tmp', (t, name) => { if (name === 'watched') { w.close(); done(name); } }); }); fs.writeFileSync('/tmp/watched', ''); console.log('watch: ' + (await watched));
  console.log('zlib: ' + (await promisify(zlib.gunzip)(await promisify(zlib.gzip)('x'.repeat(1e6)))).length);
  console.log('pbkdf2: ' + (await promisify(crypto.pbkdf2)('a', 'b', 10000, 16, 'sha256')).toString('hex'));
  console.log('signal: ' + (await new Promise((done) => { process.once('SIGUSR2', done); process.kill(process.pid, 'SIGUSR2'); })));
  let made = []; for (let i = 0; i < 300; i++) { made.push(Buffer.alloc(100000, i)); if (made.length > 20) made = []; } console.log('garbage: ' + made.length);
  console.log('priority: ' + os.getPriority());
  process.on('exit', (c) => console.log('exit: ' + c)); process.exitCode = 6;
}
