// Times the kernels of each module given in the query, in turns, and posts the minima and medians.
const PARTS = {
  qkv: 1, out: 2, gate_up: 4, down: 8, head: 16, attention: 32, append: 64, norm: 128, rope: 256, gate: 512,
  quantize: 1024,
};
const ALL = 2047;
/** What `packed.rs` makes. */
const PACKED = ['2-bit 12288x1536', '2-bit 1536x12288', '2-bit 32768x1536 blocks', '4-bit 6144x1536', '4-bit 1536x6144', '4-bit 6144x1536 blocks', '8-bit 1536x256'];
const query = new URLSearchParams(location.search);
const modules = (query.get('modules') ?? '').split(',');
const rounds = Number(query.get('rounds') ?? 12);
const tokens = Number(query.get('tokens') ?? 64);
const detail = query.get('detail') !== '0';

/** @param {number[]} times */
function summary(times) {
  const sorted = [...times].sort((a, b) => a - b);
  return { min: sorted[0], median: sorted[sorted.length >> 1] };
}

/** What the engine's other parts import; the kernels call none of it. */
const UNUSED = new Proxy({}, {
  get: () => new Proxy({}, {
    get: (_, name) => () => {
      throw new Error(`the kernels called ${String(name)}`);
    },
  }),
});

async function main() {
  /** @type {Record<string, any>} */
  const result = {};
  const loaded = [];
  for (const name of modules) {
    const { instance } = await WebAssembly.instantiateStreaming(fetch(`${name}.wasm`), UNUSED);
    const e = /** @type {any} */ (instance.exports);
    const start = performance.now();
    const bytes = e.make();
    result[name] = { weight_bytes: bytes, make_ms: performance.now() - start, verify: e.verify() };
    loaded.push({ name, e });
  }
  /** @type {{ name: string, what: string, tokens: number, run: () => void, every: number, times: number[] }[]} */
  const cases = [];
  for (const { name, e } of loaded) {
    /** @type {(what: string, tokens: number, run: () => void) => void} */
    const add = (what, tokens, run) => cases.push({ name, what, tokens, run, every: 1, times: [] });
    if (detail) {
      for (const [part, bit] of Object.entries(PARTS)) {
        // Weights of all layers must come from memory; all else is timed in slices too short to be interrupted.
        const streams = ['qkv', 'out', 'gate_up', 'down', 'head'].includes(part);
        if (streams) add(`decode ${part} @512`, 1, () => e.step(bit, 512, 1, 30));
        else add(`decode ${part} @512`, 1 / 15, () => e.step(bit, 512, 1, 2));
        // The same from the cache: what the arithmetic takes.
        if (streams && part !== 'head') {
          add(`decode ${part} cached`, 1 / 6, () => {
            for (let i = 0; i < 5; i++) e.step(bit, 512, 1, 1);
          });
        }
        if (part !== 'head') add(`prefill ${part} @256`, tokens / 30, () => e.step(bit, 256, tokens, 1));
      }
    }
    add('decode @512', 1, () => e.step(ALL, 512, 1, 30));
    add('decode @1984', 1, () => e.step(ALL, 1984, 1, 30));
    add('prefill all @256', tokens, () => e.step(ALL & ~16, 256, tokens, 30));
    add('prefill all @448', tokens, () => e.step(ALL & ~16, 448, tokens, 30));
    e.fill(2048, tokens);
  }
  for (const c of cases) c.run();
  for (let i = 0; i < rounds; i++) {
    for (const c of cases) {
      if (i % c.every) continue;
      const start = performance.now();
      c.run();
      const ms = performance.now() - start;
      c.times.push(ms / c.tokens);
      // Long cases take fewer turns.
      if (i === 0 && c.tokens > 1 && ms > 50) c.every = 6;
    }
  }
  for (const { name, e } of loaded) {
    e.make_packed();
    for (const [i, what] of PACKED.entries()) {
      for (const tokens of [1, 32]) {
        const weights = e.fill_packed(i, tokens);
        const times = [];
        for (let round = 0; round < rounds; round++) {
          const start = performance.now();
          e.run_packed(i);
          times.push((performance.now() - start) / tokens);
        }
        (result[name].ms_per_token ??= {})[`${what}, ${tokens}`] = summary(times);
        (result[name].products_per_ns ??= {})[`${what}, ${tokens}`] = weights / summary(times).min / 1e6;
      }
    }
  }
  for (const c of cases) (result[c.name].ms_per_token ??= {})[c.what] = summary(c.times);
  for (const { name, e } of loaded) {
    result[name].checksum = e.checksum();
    result[name].memory_mb = e.memory.buffer.byteLength / 1e6;
    const times = [];
    e.read(1e8);
    for (let i = 0; i < 5; i++) {
      const start = performance.now();
      e.read(1e8);
      times.push(performance.now() - start);
    }
    result[name].read_gb_per_s = 0.1 / (Math.min(...times) / 1000);
  }
  return result;
}

main().then((r) => r, (error) => ({ error: String(error) }))
  .then((r) => fetch('result', { method: 'POST', body: JSON.stringify(r) }));
