"use strict";

// Pictures: drawn once, coloured by the page's own light or dark colours, again whenever those change.
const charts = JSON.parse(document.getElementById("charts").textContent);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function draw() {
  for (const chart of charts) {
    const place = document.getElementById(chart.id);
    const narrow = place.clientWidth < 480;
    const data = chart.data.map((trace) => {
      const drawn = colour(trace.meta.colour);
      const copy = { ...trace, marker: { ...trace.marker, color: drawn, line: { width: 1.5, ...trace.marker.line, color: drawn } } };
      if (trace.error_x) copy.error_x = { ...trace.error_x, color: drawn };
      return copy;
    });
    const axis = {
      color: colour("ink"), gridcolor: colour("line"), linecolor: colour("strong"), showline: true, automargin: true,
      zeroline: false, ticks: "outside", ticklen: 4, tickcolor: colour("strong"), fixedrange: narrow,
      tickfont: { color: colour("muted"), size: 12 },
    };
    const most = Math.max(24, Math.floor(place.clientWidth / 7));
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("ink") },
      margin: { l: 12, r: 12, t: 8, b: 44 }, hovermode: "closest", showlegend: true, dragmode: narrow ? false : "zoom",
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { size: 12 } },
      hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("strong"), font: { color: colour("ink"), size: 12.5 }, align: "left" },
      xaxis: { ...axis, ...chart.layout.xaxis }, yaxis: { ...axis, ...chart.layout.yaxis, fixedrange: true },
      shapes: [{ type: "line", xref: "x", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: colour("strong"), width: 1.5 }, layer: "below" }],
      annotations: chart.layout.annotations.map((one) => ({
        ...one, font: { size: 12, color: colour("muted") }, text: one.text.length > most ? one.text.slice(0, most - 1) + "…" : one.text,
      })),
    };
    Plotly.react(place, data, layout, { responsive: true, displayModeBar: false });
  }
}

if (charts.length) {
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  matchMedia("print").addEventListener("change", draw);
}
