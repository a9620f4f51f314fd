
// The page comes to life: data unpacked, tables drawn, then the chart library, then what the address asks for.
let data = null;
const tables = [];
const rowNames = new Map();
const rowTables = new Map();

function show(anchor) {
  if (!anchor) return;
  if (!showDetails(anchor)) document.getElementById(anchor)?.scrollIntoView();
}

function followLinks() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const anchor = link.getAttribute("href").slice(1).replace(/^at=/, "");
    state.set("at", anchor);
    show(anchor);
  });
  const dialog = document.getElementById("details");
  dialog.addEventListener("close", () => state.set("at", null));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  addEventListener("hashchange", () => {
    state.read();
    for (const table of tables) table.restore();
    show(state.get("at"));
  });
}

async function begin() {
  const begun = performance.now();
  state.read();
  data = JSON.parse(await unpacked("data"));
  for (const spec of data.tables) {
    for (const row of spec.rows) {
      rowNames.set(row.anchor, row.name);
      rowTables.set(row.anchor, spec.id);
    }
    tables.push(new ResultTable(spec, document.querySelector(`[data-table="${spec.id}"]`), data));
  }
  followLinks();
  performance.measure("tables", { start: begun });
  if (document.getElementById("plotly").textContent) {
    await breath();
    document.head.append(element("script", {}, await unpacked("plotly")));
    for (const picture of data.pictures) addPicture(picture);
    for (const curve of data.curves) addCurve(curve);
    const asked = [...new Set((state.get("d") || "").split(","))];
    if (state.get("d")) for (const curve of curves) curve.chosen = asked.filter((anchor) => fits(curve, anchor));
    // Charts are drawn one by one, with a breath between them, so that the page answers meanwhile.
    const waiting = [];
    const drawNext = async () => {
      await breath();
      const chart = waiting[0];
      try {
        if (!chart.drawn) drawChart(chart);
      } finally {  // one that cannot be drawn does not keep the others from it
        waiting.shift();
        if (waiting.length) drawNext();
      }
    };
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const chart = charts.get(entry.target.id);
        if (entry.isIntersecting && !chart.drawn && !waiting.includes(chart) && waiting.push(chart) === 1) drawNext();
      }
    }, { rootMargin: "600px" });
    for (const { place } of charts.values()) seen.observe(place);
    for (const chart of charts.values()) if (chart.place.getBoundingClientRect().top < innerHeight) drawChart(chart);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    // On paper a chart keeps the size it has on the screen (the style sheet scales it), and takes the light colours.
    const figures = [...document.querySelectorAll("figure")];
    addEventListener("beforeprint", () => {
      for (const one of figures) one.style.width = one.offsetWidth + "px";
      drawAll();
    });
    addEventListener("afterprint", () => {
      for (const one of figures) one.style.width = "";
    });
    matchMedia("print").addEventListener("change", redraw);
  }
  addEventListener("beforeprint", () => { for (const table of tables) table.whole(); });
  show(state.get("at"));
  performance.measure("ready", { start: begun });
}

const ready = begin().then(
  () => { document.documentElement.dataset.ready = "yes"; },
  (error) => {
    const place = document.getElementById("trouble");
    place.hidden = false;
    place.textContent = `Tables and charts could not be drawn (${error.message}); a browser of 2023 or newer can. report.md and results.csv beside this page have the same numbers.`;
    document.documentElement.dataset.ready = "no";
  },
);
