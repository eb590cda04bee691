// What a script adds to pages that work without one: charts, toasts, the drawer, and the place of the current entry in the navigation.
(() => {
  "use strict";
  const language = document.documentElement.lang;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const drawn = new Map();

  // Charts.

  const numbers = new Intl.NumberFormat(language, { notation: "compact", maximumFractionDigits: 1 });
  const whole = new Intl.NumberFormat(language);
  const hues = ["--chart-1", "--chart-2", "--chart-3", "--chart-4", "--chart-5", "--chart-6", "--chart-7", "--chart-8"];

  function options(data, width) {
    const soft = colour("--soft"), line = colour("--line");
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif" };
    const label = (at) => data.axis[Math.round(at)] ?? "";
    return {
      width, height: 220, cursor: { y: false }, legend: { live: true },
      scales: { x: { time: false, range: [-0.5, data.axis.length - 0.5] }, y: { range: (_plot, _low, high) => [0, high || 1] } },
      axes: [
        { ...axis, grid: { show: false }, space: 64, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500], values: (_plot, ticks) => ticks.map((at) => Number.isInteger(at) ? label(at) : "") },
        { ...axis, size: 56, values: (_plot, ticks) => ticks.map((value) => numbers.format(value)) },
      ],
      series: [
        { label: data.title, value: (_plot, at) => at === null ? "–" : label(at) },
        ...data.series.map((series, n) => ({
          label: series.title, stroke: colour(hues[n % hues.length]), width: data.kind === "bars" ? 1 : 2, points: { show: false },
          fill: data.kind === "bars" ? colour(hues[n % hues.length]) : undefined,
          paths: data.kind === "bars" ? uPlot.paths.bars({ size: [0.7, 48], radius: 0.15 }) : undefined,
          value: (_plot, value) => value === null ? "–" : whole.format(value),
        })),
      ],
    };
  }

  function draw(figure) {
    const source = figure.querySelector("script[type='application/json']"), place = figure.querySelector(".plot");
    if (!source || !place || !window.uPlot) return;
    const data = JSON.parse(source.textContent);
    const width = Math.max(240, Math.floor(figure.clientWidth));
    drawn.get(figure)?.destroy();
    drawn.set(figure, new uPlot(options(data, width), [data.axis.map((_label, n) => n), ...data.series.map((s) => s.values)], place));
    figure.dataset.drawn = "yes";
  }

  function drawAll(root) {
    for (const figure of drawn.keys()) if (!figure.isConnected) { drawn.get(figure).destroy(); drawn.delete(figure); }
    for (const figure of root.querySelectorAll("figure.chart:not([data-drawn])")) draw(figure);
  }

  function redraw() {
    for (const [figure, plot] of drawn) {
      const width = Math.max(240, Math.floor(figure.clientWidth));
      if (width !== plot.width) plot.setSize({ width, height: 220 });
    }
  }

  // Toasts.

  function toast(text, tone) {
    const region = document.getElementById("toasts");
    if (!region || !text) return;
    const made = document.createElement("p");
    made.className = tone === "warn" ? "toast warn" : "toast";
    made.append(document.createElement("span"));
    made.firstChild.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "quiet";
    close.textContent = "×";
    close.setAttribute("aria-label", region.dataset.close);
    close.addEventListener("click", () => made.remove());
    made.append(close);
    region.append(made);
    // What is wrong stays until it is closed.
    if (tone !== "warn") setTimeout(() => made.remove(), 8000);
    while (region.children.length > 4) region.firstElementChild.remove();
  }

  // The drawer: a link with data-drawer loads its page's part into a dialog; without a script it is a link.

  function opened(dialog) {
    if (dialog && !dialog.open) dialog.showModal();
  }

  function start() {
    drawAll(document);
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    for (const dialog of document.querySelectorAll("dialog.drawer")) {
      dialog.querySelector("[data-close]")?.addEventListener("click", () => dialog.close());
      dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    }
    // Filters of a table act when they change; without a script their button sends them.
    document.addEventListener("change", (event) => {
      const form = event.target.closest?.("form[data-sends-itself]");
      if (form) form.requestSubmit();
    });
    if (!window.htmx) return;
    // No attribute may be code: what would compile one throws, also where a policy is weaker than ours.
    const refuse = function () { throw new Error("no code in attributes"); };
    htmx.registerExtension("tokenworks", { init: (api) => api.initSecurity(null, refuse, refuse) });
    document.addEventListener("htmx:after:swap", (event) => {
      drawAll(document);
      opened(event.target.closest?.("dialog.drawer") ?? (event.detail?.ctx?.target?.closest?.("dialog.drawer")));
    });
    document.addEventListener("toast", (event) => toast(event.detail?.text, event.detail?.tone));
    for (const name of ["htmx:error", "htmx:response:error"]) {
      document.addEventListener(name, () => toast(document.getElementById("toasts")?.dataset.failed, "warn"));
    }
  }

  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const figure of [...drawn.keys()]) draw(figure);
  });
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
