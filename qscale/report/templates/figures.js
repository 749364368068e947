"use strict";
// Figures: plain descriptions of panels and series become plots and legends in the colors that the reader prefers.
const figures = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross"];
  const RAMP = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151"];
  const RAMP_DARK = ["#8d6bc4", "#6f8fd8", "#45b6c4", "#4fd49a", "#c8e85a"];
  let printing = false;

  // ---------------------------------------------------------------- colors

  function scheme() {
    return dark.matches && !printing ? "dark" : "light";
  }

  function theme() {
    const isDark = scheme() === "dark";
    return {
      ink: isDark ? "#e8ebee" : "#16191d",
      grey: isDark ? "#8f98a3" : "#6a717a",
      grid: isDark ? "#2a3037" : "#e4e8ec",
      ground: isDark ? "#14171a" : "#ffffff",
      shade: isDark ? "rgba(255,255,255,0.06)" : "rgba(0,0,0,0.05)",
    };
  }

  function mixed(from, to, share) {
    const channel = (text, i) => parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16);
    const parts = [0, 1, 2].map((i) => Math.round(channel(from, i) + share * (channel(to, i) - channel(from, i))));
    return `#${parts.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
  }

  function colorOf(color) {
    if (typeof color === "number") {
      const palette = data.colors[scheme()];
      return palette[color % palette.length];
    }
    if (color.startsWith("ramp:")) {
      const stops = scheme() === "dark" ? RAMP_DARK : RAMP;
      const place = Number(color.slice(5)) * (stops.length - 1);
      const below = Math.min(Math.floor(place), stops.length - 2);
      return mixed(stops[below], stops[below + 1], place - below);
    }
    return theme()[color];
  }

  function clear(color, opacity) {
    const channel = (i) => parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16);
    return `rgba(${channel(0)},${channel(1)},${channel(2)},${opacity})`;
  }

  // ---------------------------------------------------------------- figures

  /** Plotly takes some marks of text for markup; names of a study are text. */
  function plain(text) {
    return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("$", "&#36;");
  }

  function joined(pieces) {
    const x = [], y = [], text = [];
    for (const piece of pieces) {
      if (x.length) { x.push(null); y.push(null); text.push(""); }
      for (let i = 0; i < piece.x.length; i++) {
        x.push(piece.x[i]); y.push(piece.y[i]); text.push(piece.text);
      }
    }
    return { x, y, text };
  }

  function tracesOf(series) {
    const color = colorOf(series.color);
    const { x, y, text } = series.pieces ? joined(series.pieces) : series;
    const traces = [];
    if (series.low) {
      const back = [...series.low].reverse();
      traces.push({
        type: "scatter", mode: "lines", x: [...x, ...[...x].reverse()], y: [...series.high, ...back],
        fill: "toself", fillcolor: clear(color, 0.16), line: { width: 0 }, hoverinfo: "skip",
      });
    }
    const trace = { x, y, name: plain(series.name), showlegend: false };
    if (text) trace.text = text.map(plain);
    trace.hovertemplate = `%{x:.4~g}, %{y:.4~g}<br>${text ? "%{text}" : plain(series.name)}<extra></extra>`;
    if (series.error) {
      trace.error_y = { type: "data", array: series.error, thickness: 1, width: 2, color };
    }
    if (series.kind === "bars") {
      traces.push({ ...trace, type: "bar", marker: { color } });
      return traces;
    }
    const mode = { points: "markers", line: "lines", both: "lines+markers" }[series.kind];
    const width = series.pieces ? 1 : 1.8;
    traces.push({
      ...trace, type: "scatter", mode, opacity: series.pieces && series.pieces.length > 12 ? 0.55 : 1,
      line: { color, width: series.width || width, dash: series.dash || "solid", shape: series.shape || "linear" },
      marker: { color, symbol: SYMBOLS[(series.symbol || 0) % SYMBOLS.length], size: series.size || (x.length > 400 ? 4 : 7) },
    });
    return traces;
  }

  function axisOf(axis, extra) {
    const look = theme();
    const out = {
      title: { text: plain(axis.label), font: { size: 12, color: look.ink } },
      type: axis.log ? "log" : "linear", gridcolor: look.grid, linecolor: look.grey, zeroline: false,
      showline: true, ticks: "outside", ticklen: 3, tickcolor: look.grey, automargin: true, fixedrange: true,
      tickfont: { size: 11, color: look.ink }, exponentformat: "power", ...extra,
    };
    if (axis.ticks) {
      out.tickmode = "array";
      out.tickvals = axis.ticks.map(([value]) => value);
      out.ticktext = axis.ticks.map(([, text]) => plain(text));
    }
    if (axis.ends) out.range = axis.log ? axis.ends.map(Math.log10) : axis.ends;
    return out;
  }

  function layoutOf(panel, extra) {
    const look = theme();
    return {
      margin: { l: 8, r: 10, t: 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: look.ink, family: "system-ui, sans-serif", size: 12 }, showlegend: false, dragmode: false,
      hovermode: "closest", hoverlabel: { bgcolor: look.ground, bordercolor: look.grey, font: { color: look.ink } },
      barmode: "group", xaxis: axisOf(panel.x), yaxis: axisOf(panel.y, { rangemode: panel.y.log ? "normal" : undefined }),
      ...extra,
    };
  }

  const CONFIG = { displayModeBar: false, responsive: true, staticPlot: false, showTips: false };

  function draw(element, panel, extra) {
    element.panel = panel;
    element.extra = extra;
    if (!window.Plotly) return;
    const traces = panel.series.flatMap(tracesOf);
    Plotly.react(element, traces, layoutOf(panel, { ...extra, ...element.size }), CONFIG);
  }

  function drawPlot(element) {
    if (element.dataset.drawn) return;
    element.dataset.drawn = "1";
    const panel = data.figures[element.dataset.figure][Number(element.dataset.panel)];
    draw(element, panel);
  }

  function mark(series) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("width", "22");
    svg.setAttribute("height", "12");
    svg.setAttribute("viewBox", "0 0 22 12");
    const color = colorOf(series.color);
    const add = (name, attributes) => {
      const element = document.createElementNS(space, name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      svg.append(element);
    };
    if (series.kind === "line" || series.kind === "both") {
      const dash = { dash: "5 3", dot: "2 2" }[series.dash] || "none";
      add("line", { x1: 0, x2: 22, y1: 6, y2: 6, stroke: color, "stroke-width": 2.2, "stroke-dasharray": dash });
    }
    if (series.kind === "bars") add("rect", { x: 5, y: 1, width: 12, height: 10, fill: color });
    if (series.kind === "points" || series.kind === "both") {
      const shape = SYMBOLS[(series.symbol || 0) % SYMBOLS.length];
      const paths = {
        square: "M7 2h8v8h-8z", "triangle-up": "M11 1l5 9h-10z", diamond: "M11 1l5 5l-5 5l-5-5z",
        "triangle-down": "M11 11l5-9h-10z", cross: "M9.5 1h3v3.500h3.500v3h-3.500v3.500h-3v-3.500h-3.500v-3h3.500z",
      };
      if (shape === "circle") add("circle", { cx: 11, cy: 6, r: 4.2, fill: color });
      else add("path", { d: paths[shape], fill: color });
    }
    return svg;
  }

  function legend(element, panels) {
    const seen = new Map();
    for (const panel of panels) {
      for (const series of panel.series) {
        const known = seen.get(series.name);
        if (known) {
          if (known.kind !== series.kind && known.color === series.color) known.kind = "both";
          if (series.symbol !== undefined) known.symbol = series.symbol;
        } else if (series.legend !== false) {
          seen.set(series.name, { ...series });
        }
      }
    }
    const items = seen.size > 1 ? [...seen.values()] : [];
    element.replaceChildren(...items.map((series) => {
      const item = document.createElement("span");
      item.append(mark(series), series.name);
      return item;
    }));
  }

  function legends() {
    for (const element of document.querySelectorAll("[data-legend]")) {
      const panels = data.figures[element.dataset.legend];
      if (panels) legend(element, panels);
    }
  }

  function print(on) {
    printing = on;
  }

  return { data, dark, theme, draw, drawPlot, legend, legends, print };
})();
