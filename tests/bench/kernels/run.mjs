// Runs the kernel bench in headless Chromium: node run.mjs [--rounds N] [--tokens N] [--brief] NAME=FILE.wasm ...
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const args = process.argv.slice(2);
/** @type {(name: string, fallback: string) => string} */
const flag = (name, fallback) => {
  const i = args.indexOf(`--${name}`);
  return i < 0 ? fallback : args.splice(i, 2)[1];
};
const brief = args.includes('--brief') && args.splice(args.indexOf('--brief'), 1).length > 0;
const rounds = flag('rounds', '12');
const tokens = flag('tokens', '64');
const modules = Object.fromEntries(args.map((a) => a.split('=')));
if (Object.keys(modules).length === 0) {
  console.error('Say which modules to time: node run.mjs NAME=FILE.wasm ...');
  process.exit(2);
}

/** @type {Record<string, string>} */
const types = { html: 'text/html', mjs: 'text/javascript', wasm: 'application/wasm' };
const profile = mkdtempSync(join(tmpdir(), 'sotto-kernels-'));
/** @type {import('node:child_process').ChildProcess} */
let browser;
let code = 1;

const server = createServer((request, response) => {
  const path = new URL(request.url ?? '/', 'http://localhost').pathname.slice(1);
  if (path === 'result') {
    let body = '';
    request.on('data', (d) => (body += d)).on('end', () => {
      response.end();
      print(JSON.parse(body));
      browser.kill();
    });
    return;
  }
  const extension = path.split('.').pop() ?? '';
  const file = extension === 'wasm' ? modules[path.slice(0, -5)] : new URL(path, import.meta.url);
  try {
    const data = readFileSync(file);
    // Isolation gives the page's clock 5 µs steps.
    response.writeHead(200, {
      'Content-Type': types[extension],
      'Cross-Origin-Opener-Policy': 'same-origin',
      'Cross-Origin-Embedder-Policy': 'require-corp',
    });
    response.end(data);
  } catch {
    response.writeHead(404).end();
  }
});

/** @param {any} result */
function print(result) {
  if (result.error) {
    console.error(result.error);
    return;
  }
  code = 0;
  for (const [name, r] of Object.entries(result)) {
    console.log(`${name}: weights ${(r.weight_bytes / 1e6).toFixed(1)} MB, repacked in ${r.make_ms.toFixed(0)} ms, ` +
      `wasm ${r.memory_mb.toFixed(0)} MB, checks at ${(100 * r.verify).toFixed(0)} % of what is allowed, reads ${r.read_gb_per_s.toFixed(1)} GB/s`);
    if (!(r.verify <= 1)) {
      console.error(`${name}: a kernel differs from its specification by ${r.verify} times what is allowed`);
      code = 1;
    }
  }
  const names = Object.keys(result);
  console.log(['ms/token: min (median)'.padEnd(26), ...names.map((n) => n.padStart(18))].join(''));
  for (const what of Object.keys(result[names[0]].ms_per_token)) {
    const cells = names.map((n) => {
      const { min, median } = result[n].ms_per_token[what];
      const rate = result[n].products_per_ns?.[what];
      return `${min.toFixed(3)} (${median.toFixed(3)})${rate ? ` ${rate.toFixed(1)}/ns` : ''}`.padStart(18);
    });
    console.log([what.padEnd(26), ...cells].join(''));
  }
}

server.listen(0, '127.0.0.1', () => {
  const port = /** @type {import('node:net').AddressInfo} */ (server.address()).port;
  const search = new URLSearchParams({ modules: Object.keys(modules).join(), rounds, tokens, detail: brief ? '0' : '1' });
  browser = spawn(process.env.CHROMIUM ?? 'chromium', ['--headless=new', '--no-sandbox', '--disable-gpu',
    `--user-data-dir=${profile}`, `http://127.0.0.1:${port}/page.html?${search}`], { stdio: 'ignore' });
  const limit = setTimeout(() => {
    console.error('Chromium gave no result within 5 minutes.');
    browser.kill();
  }, 300_000);
  browser.on('error', (e) => console.error(`Chromium did not start: ${e.message}`));
  browser.on('close', () => {
    clearTimeout(limit);
    server.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    process.exit(code);
  });
});
