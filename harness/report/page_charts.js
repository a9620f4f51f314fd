
// Charts: drawn when they come into sight, coloured by the page's own light or dark colours, again whenever those change.
const POSITIONS = 7;
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const charts = new Map(); // id → { place, current(), drawn }

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function faint(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${red},${green},${blue},0.15)`;
}

function painted(trace) {
  const wanted = trace.meta.colour;
  const drawn = colour(typeof wanted === "number" ? "c" + (wanted % POSITIONS) : { knee: "ink", aside: "strong" }[wanted] || wanted);
  const copy = { ...trace };
  if (trace.line) copy.line = { ...trace.line, color: drawn };
  if (trace.meta.band) copy.fillcolor = faint(drawn);
  if (trace.marker) copy.marker = { ...trace.marker, color: drawn, line: { color: drawn, width: 1.5 } };
  if (trace.type === "bar") {
    copy.marker.line = { width: 0 };
    copy.marker.pattern = { ...trace.marker.pattern, fillmode: "overlay", fgcolor: colour("ground") };
  }
  for (const axis of ["error_x", "error_y"]) if (trace[axis]) copy[axis] = { ...trace[axis], color: drawn };
  return copy;
}

function laidOut(figure, narrow) {
  const ink = colour("ink");
  const axis = {
    color: ink, gridcolor: colour("line"), linecolor: colour("strong"), zeroline: false, showline: true, automargin: true,
    ticks: "outside", ticklen: 4, tickcolor: colour("strong"), fixedrange: narrow, tickfont: { color: colour("muted"), size: 12 },
  };
  return {
    ...figure.layout,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink },
    margin: { l: figure.layout.barmode ? 12 : 56, r: 12, t: 8, b: 44 }, hovermode: "closest", showlegend: true, dragmode: narrow ? false : "zoom",
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 }, itemwidth: 30, traceorder: "normal", maxheight: 0.9 },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("strong"), font: { color: ink, size: 12.5 }, align: "left", namelength: -1 },
    xaxis: { ...axis, ...figure.layout.xaxis }, yaxis: { ...axis, ...figure.layout.yaxis },
  };
}

function drawChart(chart) {
  const figure = chart.current();
  const { place } = chart;
  const width = place.clientWidth;
  // The legend stands above the chart: the longest name decides how many entries fit beside each other.
  const names = figure.data.filter((trace) => trace.showlegend !== false).map((trace) => trace.name);
  const entry = 60 + 7 * Math.max(0, ...names.map((name) => name.length));
  const lines = Math.ceil(names.length / Math.max(1, Math.floor(width / entry)));
  place.style.minHeight = figure.height ? "0" : "";
  place.style.height = (figure.height || (width < 480 ? 320 : 350)) + 20 * lines + "px";
  Plotly.react(place, figure.data.map(painted), laidOut(figure, width < 480), { responsive: true, displayModeBar: false });
  if (!chart.drawn) {
    place.on("plotly_click", ({ points }) => {
      const anchor = points[0] && points[0].customdata;
      if (anchor && data.sketches[anchor]) toggleCurve(anchor);
    });
  }
  chart.drawn = true;
}

function drawAll() {
  for (const chart of charts.values()) drawChart(chart);
}

function redraw() {
  for (const chart of charts.values()) if (chart.drawn) drawChart(chart);
}

// ---- pictures that the report made

function addPicture({ id, figures }) {
  const place = document.getElementById(id);
  const chart = { place, number: 0, current: () => figures[chart.number] };
  charts.set(id, chart);
  const select = document.querySelector(`select[data-chart="${id}"]`);
  if (select) {
    select.addEventListener("change", () => {
      chart.number = Number(select.value);
      place.closest("figure").querySelector("figcaption").textContent = figures[chart.number].caption;
      drawChart(chart);
    });
  }
}

// ---- distributions of the rows that a reader chooses

const curves = [];

function addCurve({ id, kind, table, chosen }) {
  const place = document.getElementById(id);
  const curve = { kind, table, chosen: [...chosen] };
  curves.push(curve);
  curve.chart = { place, current: () => distribution(curve) };
  charts.set(id, curve.chart);
  const select = document.querySelector(`select[data-curve="${id}"]`);
  select.addEventListener("change", () => {
    if (select.value) toggleCurve(select.value);
    select.value = "";
  });
}

// Whether a row belongs into a picture: it has such latencies, and is of the same dataset.
function fits(curve, anchor) {
  return rowTables.get(anchor) === curve.table && Boolean(data.sketches[anchor]?.[curve.kind]);
}

function toggleCurve(anchor) {
  for (const curve of curves.filter((one) => fits(one, anchor))) {
    const at = curve.chosen.indexOf(anchor);
    if (at < 0) curve.chosen.push(anchor);
    else curve.chosen.splice(at, 1);
    if (curve.chart.place.isConnected && window.Plotly) drawChart(curve.chart);
    const title = curve.chart.place.closest("figure").querySelector("h3").textContent;
    toast(`${at < 0 ? "added to" : "taken from"} “${title}”`);
  }
  state.set("d", curves.flatMap((curve) => curve.chosen).join(","));
}

function text(words) { // as plotly has to be given it
  return words.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("%{", "&#37;{");
}

function distribution(curve) {
  const lowest = [], highest = [];
  const traces = curve.chosen.map((anchor, number) => {
    const [n, quantiles] = data.sketches[anchor][curve.kind];
    const known = data.levels.map((level, at) => [level, quantiles[at]]).filter(([, value]) => value !== null);
    lowest.push(known[0][1] * 1e3);
    highest.push(known[known.length - 1][1] * 1e3);
    const name = text(rowNames.get(anchor));
    const marked = known.map(([level]) => ([0.5, 0.9, 0.95, 0.99].includes(level) ? 8 : 0));
    return {
      type: "scatter", mode: "lines+markers", name, meta: { colour: number },
      x: known.map(([, value]) => value * 1e3), y: known.map(([level]) => level),
      text: known.map(([level, value]) => `<b>${name}</b><br>${+(100 * level).toFixed(2)} % took at most ${(value * 1e3).toPrecision(3)} ms<br>${n.toLocaleString("en")} samples`),
      hovertemplate: "%{text}<extra></extra>", customdata: known.map(() => anchor),
      line: { width: 2, dash: DASHES[Math.floor(number / POSITIONS) % DASHES.length] },
      marker: { size: marked, symbol: SYMBOLS[number % SYMBOLS.length] },
    };
  });
  const low = Math.min(...lowest, 1e9), high = Math.max(...highest, 1e-9);
  const x = { title: { text: "time (ms)" }, type: "log", ...(traces.length ? { range: [Math.log10(low / 1.1), Math.log10(high * 1.1)] } : { range: [0, 1] }) };
  if (traces.length) {
    const steps = high / low > 30 ? [1] : high / low > 6 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
    x.tickvals = [];
    for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.log10(high) + 1; power += 1) {
      for (const step of steps) if (step * 10 ** power >= low / 1.1 && step * 10 ** power <= high * 1.1) x.tickvals.push(+(step * 10 ** power).toPrecision(3));
    }
    x.ticktext = x.tickvals.map(String);
  }
  return { data: traces, layout: { xaxis: x, yaxis: { title: { text: "share of requests" }, range: [0, 1.02], tickvals: [0, 0.25, 0.5, 0.75, 0.9, 1] } } };
}
