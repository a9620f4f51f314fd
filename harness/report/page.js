"use strict";

// Tables: a click on a heading sorts by that column, a second one the other way round; what was not measured stays last.
for (const table of document.querySelectorAll("table.results")) {
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const numeric = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      const falling = before ? before === "ascending" : false;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((row) => ({ row, key: row.cells[column].dataset.sort }));
      keyed.sort((a, b) => {
        if (a.key === undefined || b.key === undefined) return (a.key === undefined) - (b.key === undefined);
        const order = numeric ? Number(a.key) - Number(b.key) : a.key.localeCompare(b.key, "en", { numeric: true });
        return falling ? -order : order;
      });
      body.append(...keyed.map((entry) => entry.row));
    });
  });
}

// Charts: drawn once, coloured by the page's own light or dark colours, again whenever those change.
const charts = JSON.parse(document.getElementById("charts").textContent);
const positions = 7;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function figure(chart, narrow) {
  const ink = colour("ink");
  const data = chart.data.map((trace) => {
    const drawn = trace.meta.colour === "front" ? colour("front") : colour("c" + (trace.meta.colour % positions));
    const copy = { ...trace, line: { ...trace.line, color: drawn } };
    if (trace.marker) copy.marker = { ...trace.marker, color: drawn, line: { color: drawn, width: 1.5 } };
    for (const axis of ["error_x", "error_y"]) if (trace[axis]) copy[axis] = { ...trace[axis], color: drawn };
    return copy;
  });
  const axis = {
    color: ink, gridcolor: colour("line"), linecolor: colour("strong"), zeroline: false, showline: true, automargin: true,
    ticks: "outside", ticklen: 4, tickcolor: colour("strong"), fixedrange: narrow, tickfont: { color: colour("muted"), size: 12 },
  };
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink },
    margin: { l: 56, r: 12, t: 8, b: 44 }, hovermode: "closest", showlegend: true, dragmode: narrow ? false : "zoom",
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 }, itemwidth: 30 },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("strong"), font: { color: ink, size: 12.5 }, align: "left", namelength: -1 },
    xaxis: { ...axis, ...chart.layout.xaxis }, yaxis: { ...axis, ...chart.layout.yaxis },
  };
  return [data, layout, { responsive: true, displayModeBar: false }];
}

function draw() {
  for (const chart of charts) {
    const place = document.getElementById(chart.id);
    Plotly.react(place, ...figure(chart, place.clientWidth < 480));
  }
}

if (charts.length) {
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // On paper a chart keeps the size it has on the screen (the style sheet scales it), and takes the light colours.
  const figures = [...document.querySelectorAll("figure")];
  addEventListener("beforeprint", () => {
    for (const one of figures) one.style.width = one.offsetWidth + "px";
  });
  addEventListener("afterprint", () => {
    for (const one of figures) one.style.width = "";
  });
  matchMedia("print").addEventListener("change", draw);
}
