// How Sotto looks: one type scale, one accent, light and dark. A constructed sheet, since the card lives in a shadow root of
// someone else's page, where no style file of ours can be loaded. Classic script: the popup and the card load it.
globalThis.__sotto ??= /** @type {any} */ ({})

;(() => {
  const css = /* css */ `
    :host, :root {
      --paper: #fcfbf9;
      --raised: #f3f1ec;
      --ink: #1c2326;
      --muted: #586269;
      --line: #e2dfd8;
      --accent: #17695c;
      --accent-ink: #ffffff;
      --accent-soft: #e3efec;
      --warn: #8a4b0f;
      --warn-soft: #faf0e2;
      --shadow: 0 1px 2px rgb(20 30 30 / 8%), 0 12px 32px rgb(20 30 30 / 18%);
      --small: 12px;
      --body: 14px;
      --title: 16px;
      --headline: 24px;
      --font: -apple-system, "Segoe UI", Roboto, Cantarell, "Noto Sans", "Liberation Sans", system-ui, sans-serif;
      --mono: ui-monospace, "SF Mono", Consolas, "Liberation Mono", monospace;
      color-scheme: light dark;
    }
    @media (prefers-color-scheme: dark) {
      :host, :root {
        --paper: #1b1f21;
        --raised: #252a2d;
        --ink: #e9e7e2;
        --muted: #a5aeb2;
        --line: #363c40;
        --accent: #7fcbbb;
        --accent-ink: #10221e;
        --accent-soft: #223632;
        --warn: #ecb77d;
        --warn-soft: #35291b;
        --shadow: 0 1px 2px rgb(0 0 0 / 40%), 0 12px 32px rgb(0 0 0 / 50%);
      }
    }

    *, *::before, *::after { box-sizing: border-box; }
    [hidden] { display: none !important; }
    .sotto {
      font: 400 var(--body)/1.55 var(--font);
      color: var(--ink);
      background: var(--paper);
      text-align: start;
      overflow-wrap: anywhere;
      -webkit-font-smoothing: antialiased;
    }
    .sotto :is(p, ul, ol, h2, h3, h4, blockquote, figure, pre) { margin: 0; padding: 0; }
    .sotto svg { display: block; flex: none; }
    .sotto ::selection { background: var(--accent); color: var(--accent-ink); }
    .hidden-text { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

    .sotto button { font: inherit; color: inherit; background: none; border: 0; margin: 0; padding: 0; cursor: pointer; text-align: start; }
    .sotto button:disabled { cursor: default; opacity: 0.45; }
    .sotto :is(button, summary, a, textarea, input, select, [tabindex="0"]):focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 6px; }
    .sotto a { color: inherit; }
    .sotto a:is(.quiet, .plain, .solid) { text-decoration: none; }
    .sotto .quiet { display: inline-flex; align-items: center; gap: 6px; min-height: 32px; padding: 4px 9px; border-radius: 8px; font-size: var(--small); font-weight: 500; color: var(--muted); }
    .sotto .quiet:is(a, :enabled):hover { background: var(--raised); color: var(--ink); }
    .sotto .solid { display: inline-flex; align-items: center; justify-content: center; gap: 8px; min-height: 40px; padding: 8px 16px; border-radius: 10px; font-weight: 600; background: var(--accent); color: var(--accent-ink); }
    .sotto .solid:hover:enabled { filter: brightness(1.08); }
    .sotto .plain { display: inline-flex; align-items: center; justify-content: center; gap: 8px; min-height: 40px; padding: 8px 16px; border: 1px solid var(--line); border-radius: 10px; font-weight: 500; color: var(--ink); }
    .sotto .plain:is(a, :enabled):hover { background: var(--raised); }
    .sotto :is(input, select) { font: inherit; color: inherit; min-height: 40px; padding: 8px 12px; border: 1px solid var(--line); border-radius: 10px; background: var(--raised); }
    .sotto .round { display: grid; place-items: center; width: 32px; height: 32px; border-radius: 8px; color: var(--muted); }
    .sotto .round:hover:enabled { background: var(--raised); color: var(--ink); }

    .answer { display: flex; flex-direction: column; gap: 14px; }
    .answer :is(div, p):empty:not(.bar *) { display: none; }
    .label { display: flex; align-items: center; gap: 6px; font-size: var(--small); font-weight: 600; color: var(--muted); line-height: 1.4; }
    .aside { font-size: var(--small); color: var(--muted); line-height: 1.5; }

    .passages { display: flex; flex-direction: column; gap: 8px; }
    .passages ul { list-style: none; display: flex; flex-direction: column; gap: 2px; }
    .sotto .passage { display: block; width: 100%; padding: 6px 10px 6px 14px; border-radius: 8px; position: relative; }
    .passage::before { content: ""; position: absolute; inset: 8px auto 8px 2px; width: 3px; border-radius: 2px; background: var(--accent); opacity: 0.55; }
    .sotto button.passage:hover { background: var(--accent-soft); }
    .sotto button.passage:hover::before { opacity: 1; }

    .draft { display: flex; flex-direction: column; gap: 8px; }
    .draft.set-apart { padding: 12px 14px; border-radius: 12px; background: var(--raised); }
    .prose { display: flex; flex-direction: column; gap: 8px; }
    .prose :is(h2, h3, h4) { font-size: var(--body); font-weight: 650; line-height: 1.4; }
    .prose :is(ul, ol) { padding-inline-start: 20px; }
    .prose li + li { margin-top: 3px; }
    .prose code { font: 0.92em/1.5 var(--mono); background: rgb(128 128 128 / 14%); border-radius: 4px; padding: 0 3px; }
    .prose pre { overflow-x: auto; padding: 8px 10px; border-radius: 8px; background: rgb(128 128 128 / 12%); overflow-wrap: normal; }
    .prose pre code { background: none; padding: 0; }
    .prose[aria-busy="true"] > :last-child::after { content: ""; display: inline-block; width: 7px; height: 1em; margin-inline-start: 3px; border-radius: 2px; vertical-align: -0.15em; background: var(--accent); animation: breathe 1.2s ease-in-out infinite; }
    @keyframes breathe { 50% { opacity: 0.2; } }

    .progress { display: flex; flex-direction: column; gap: 6px; font-size: var(--small); color: var(--muted); font-variant-numeric: tabular-nums; }
    .bar { height: 3px; border-radius: 2px; background: var(--line); overflow: hidden; }
    .bar > i { display: block; height: 100%; border-radius: 2px; background: var(--accent); transition: width 0.2s linear; }
    .bar.unknown > i { width: 30%; animation: slide 1.4s ease-in-out infinite alternate; }
    @keyframes slide { from { margin-inline-start: 0; } to { margin-inline-start: 70%; } }

    .notice { display: flex; gap: 8px; font-size: var(--small); line-height: 1.5; color: var(--muted); }
    .notice svg { margin-top: 1px; }
    .failure { display: flex; gap: 10px; padding: 12px 14px; border-radius: 12px; background: var(--warn-soft); }
    .failure svg { color: var(--warn); margin-top: 2px; }
    .failure strong { font-weight: 600; }

    .actions { display: flex; flex-wrap: wrap; align-items: center; gap: 2px; margin-inline: -9px; }
    .details { font-size: var(--small); color: var(--muted); line-height: 1.5; }
    .details summary { cursor: pointer; width: fit-content; border-radius: 6px; padding-block: 4px; }
    .details summary:hover { color: var(--ink); }
    .details dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 4px 0 0; font-variant-numeric: tabular-nums; }
    .details dt { margin: 0; }
    .details dd { margin: 0; color: var(--ink); }

    @media (prefers-reduced-motion: reduce) {
      *, *::before, *::after { animation: none !important; transition: none !important; }
    }
    @media (forced-colors: active) {
      .passage::before, .bar > i { background: Highlight; }
      .sotto .solid { border: 1px solid; }
    }
  `

  /** A new sheet each time: a sheet belongs to one document. */
  __sotto.look = () => {
    const sheet = new CSSStyleSheet()
    sheet.replaceSync(css)
    return sheet
  }
})()
