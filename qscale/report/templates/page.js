"use strict";
// The page itself: when figures are drawn, and the explorer. All arithmetic is in explorer.js.
(() => {
  const { data, dark, theme, draw, drawPlot, legend, legends } = figures;

  // ---------------------------------------------------------------- the explorer

  const LEVEL = 0.9;
  const { laws, baselines, forms, formats, totals } = data.explorer;
  const byId = (id) => document.getElementById(id);
  const state = { law: 0, baseline: 0, values: {}, others: {}, format: null, total: null, budget: 0, chosen: new Set(), along: "N" };
  const ranges = {}; // of the sliders, by variable
  let frame = 0;
  let spoken = 0;

  const formOf = (entry) => forms[entry.file.form];
  const has = (entry, name) => formOf(entry).variables.some((variable) => variable.name === name);
  const digits = (value, n = 4) => (Number.isFinite(value) ? String(Number(value.toPrecision(n))) : "–");

  function times(value) {
    return value > 1 ? `${digits(value, 3)} times outside` : "inside";
  }

  function option(text, value) {
    const element = document.createElement("option");
    element.textContent = text;
    element.value = value;
    return element;
  }

  function pointOf(entry, more) {
    const at = {};
    for (const variable of formOf(entry).variables) {
      if (variable.name in state.values) at[variable.name] = state.values[variable.name];
      else at[variable.name] = state.others[variable.name];
    }
    return Object.assign(at, more);
  }

  function setRange(name) {
    const entry = laws[state.law];
    let [low, high] = entry.file.box[name] || (name === "G" ? [16, 1024] : baselines[state.baseline].file.box[name]);
    if (name === "G") [low, high] = [Math.max(2, Math.min(low, 8)), Math.max(high, 4096)];
    else [low, high] = [low / 20, high * 500];
    ranges[name] = [low, high];
  }

  function place(name, value) {
    const [low, high] = ranges[name];
    return Math.min(1, Math.max(0, Math.log(value / low) / Math.log(high / low)));
  }

  function valueAt(name, share) {
    const [low, high] = ranges[name];
    const value = Number((low * (high / low) ** share).toPrecision(3));
    return name === "G" ? Math.max(1, Math.round(value)) : value;
  }

  function show(name, value, fromText) {
    const slider = byId(`x-${name}-slider`);
    const text = name === "budget" ? explorer.shortBytes(value) : explorer.shortCount(value);
    slider.value = String(place(name, value));
    slider.setAttribute("aria-valuetext", text);
    if (!fromText) byId(`x-${name}`).value = name === "budget" ? explorer.shortCount(value).replace("B", "G") : explorer.shortCount(value);
  }

  function defaultTotal() {
    const found = totals.find(([n]) => Math.abs(n / state.values.N - 1) < 0.005);
    return found ? found[1] : null;
  }

  function total() {
    if (state.total !== null) return Math.max(state.total, state.values.N);
    const known = defaultTotal();
    return known === null ? state.values.N : known + state.values.N - totals.find(([, all]) => all === known)[0];
  }

  /** Fields of the variables beyond N, D and G that the chosen law has. */
  function otherFields() {
    const holder = byId("x-others");
    holder.replaceChildren();
    const entry = laws[state.law];
    for (const variable of formOf(entry).variables) {
      if ("NDG".includes(variable.name)) continue;
      const field = document.createElement("div");
      field.className = "field";
      const label = document.createElement("label");
      label.htmlFor = `x-other-${variable.name}`;
      label.textContent = `${variable.name}, ${variable.unit}`;
      const input = document.createElement(variable.levels.length ? "select" : "input");
      input.id = label.htmlFor;
      if (variable.levels.length) {
        input.append(...variable.levels.map((level) => option(level, level)));
        if (!variable.levels.includes(state.others[variable.name])) state.others[variable.name] = variable.levels[0];
      } else {
        input.type = "text";
        input.inputMode = "decimal";
        const [low, high] = entry.file.box[variable.name];
        if (typeof state.others[variable.name] !== "number") {
          state.others[variable.name] = Number(Math.sqrt(low * high).toPrecision(3));
        }
      }
      input.value = String(state.others[variable.name]);
      input.addEventListener(variable.levels.length ? "change" : "input", () => {
        const value = variable.levels.length ? input.value : explorer.parseCount(input.value);
        const good = variable.levels.length > 0 || Number.isFinite(value);
        input.setAttribute("aria-invalid", String(!good));
        if (good) state.others[variable.name] = value;
        schedule();
      });
      field.append(label, input);
      holder.append(field);
    }
  }

  function chooseLaw(index, keepPoint) {
    state.law = index;
    const entry = laws[index];
    state.format = Math.max(0, formats.findIndex((format) => format.name === entry.format));
    byId("x-format").value = String(state.format);
    for (const name of ["N", "D", "G"]) {
      setRange(name);
      const box = entry.file.box[name];
      if (!keepPoint && box) {
        const middle = Math.sqrt(box[0] * box[1]);
        state.values[name] = Math.min(box[1], Math.max(box[0], Number(middle.toPrecision(3))));
        if (name === "G") state.values.G = Math.max(1, Math.round(state.values.G));
      }
      if (!state.values[name]) state.values[name] = name === "G" ? 32 : valueAt(name, 0.5);
      show(name, state.values[name]);
      byId(`x-${name}`).setAttribute("aria-invalid", "false");
    }
    otherFields();
    const along = byId("x-along");
    const names = formOf(entry).variables.filter((variable) => !variable.levels.length).map((variable) => variable.name);
    along.replaceChildren(...names.map((name) => option(name, name)));
    if (!names.includes(state.along)) state.along = names[0];
    along.value = state.along;
    if (!keepPoint) resetBudget();
    choices();
    schedule();
  }

  function resetBudget() {
    const format = formats[state.format];
    const size = explorer.bytes(state.values.N, total(), explorer.bitsPerWeight(format, state.values.G));
    const [low, high] = ranges.N;
    ranges.budget = [low / 2, high * 2];
    const unit = 10 ** Math.floor(Math.log10(size) - 1);
    state.budget = Math.ceil((size / unit) * (1 - 1e-9)) * unit;
    show("budget", state.budget);
  }

  /** Boxes for the laws that can stand in one front with the chosen one: laws of delta in N, D and G. */
  function choices() {
    const holder = byId("x-choices");
    holder.replaceChildren();
    const items = [["none", "unquantized"], ...laws.map((entry, i) => [String(i), entry.name])];
    for (const [key, name] of items) {
      if (key !== "none" && Number(key) !== state.law && formOf(laws[Number(key)]).variables.some((v) => !"NDG".includes(v.name))) continue;
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = state.chosen.has(key) || Number(key) === state.law;
      box.disabled = Number(key) === state.law;
      box.addEventListener("change", () => {
        if (box.checked) state.chosen.add(key); else state.chosen.delete(key);
        schedule();
      });
      label.append(box, name);
      holder.append(label);
    }
  }

  function groupsOf(entry) {
    if (!has(entry, "G")) return [state.values.G];
    const [low, high] = entry.file.box.G;
    const powers = [16, 32, 64, 128, 256, 512, 1024].filter((g) => g >= low && g <= high);
    return powers.length ? powers : [state.values.G];
  }

  function rowsOf(rows) {
    return rows.map(([name, value, warn]) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      const cell = document.createElement("td");
      cell.textContent = value;
      if (warn) cell.className = "warn";
      row.append(head, cell);
      return row;
    });
  }

  function explore() {
    frame = 0;
    if (!laws.length || !baselines.length) return;
    const entry = laws[state.law];
    const base = baselines[state.baseline];
    const form = formOf(entry);
    const law = entry.file;
    let value, band, out, whole, outBase;
    try {
      const at = pointOf(entry);
      value = explorer.predict(law, form, at);
      band = explorer.interval(law, form, at, LEVEL);
      out = explorer.outside(law, form, at);
      const there = { N: state.values.N, D: state.values.D };
      whole = explorer.predict(base.file, formOf(base), there);
      outBase = explorer.outside(base.file, formOf(base), there);
    } catch (error) {
      byId("x-result").tBodies[0].replaceChildren(...rowsOf([["cannot be computed", error.message, true]]));
      say(`cannot be computed: ${error.message}`);
      return;
    }
    const ofLoss = form.target === "loss";
    const loss = ofLoss ? value : whole + value;
    const format = formats[state.format];
    const bits = explorer.bitsPerWeight(format, state.values.G);
    const size = explorer.bytes(state.values.N, total(), bits);
    const epm = ofLoss ? null : explorer.multiplier(base.file, value, state.values.N);
    const far = Object.entries(out);
    const farBase = Object.entries(outBase);
    const bandText = band ? `${digits(band[0])} to ${digits(band[1])}` : "none: this law's file has no draws";
    const fits = size <= state.budget;
    const rows = [
      [ofLoss ? "loss" : "delta", `${digits(value)} ${form.unit}`],
      ["90 % band of the mean law", bandText],
      ["law's fitted box", far.map(([name, t]) => `${name} ${times(t)}`).join(", "), far.some(([, t]) => t > 1)],
      ["unquantized loss", `${digits(whole, 5)} (${base.name})`],
      ["baseline's fitted box", farBase.map(([name, t]) => `${name} ${times(t)}`).join(", "), farBase.some(([, t]) => t > 1)],
      ["quantized loss", `${digits(loss, 5)}`],
      ["effective parameters", epm === null ? "–" : `${digits(epm)} of N, as good as ${explorer.shortCount(epm * state.values.N)} unquantized`],
      ["bits of a weight", `${digits(bits, 6)} (${format.name})`],
      ["bytes", `${explorer.shortBytes(size)}: ${fits ? "within" : "over"} the budget of ${explorer.shortBytes(state.budget)}`, !fits],
    ];
    const best = drawFront(entry, base, { bytes: size, loss });
    rows.push(["least loss within the budget", best
      ? `${digits(best.loss, 5)}: ${best.name}, N ${explorer.shortCount(best.N)}${best.grouped ? `, G ${best.G}` : ""}, ${explorer.shortBytes(best.bytes)}`
      : "none of the front's choices is this small", !best]);
    byId("x-result").tBodies[0].replaceChildren(...rowsOf(rows));
    drawLine(entry, form, law);
    helps(entry, format, out);
    const where = far.filter(([, t]) => t > 1).map(([name, t]) => `${name} ${times(t)} the fitted box`).join(", ");
    say(`${rows[0][0]} ${rows[0][1]}; 90 % band ${bandText}; ${explorer.shortBytes(size)}, ${fits ? "within" : "over"} budget${where ? `; ${where}` : ""}`);
  }

  /** The result in words for screen readers, once the hand has stopped. */
  function say(text) {
    clearTimeout(spoken);
    spoken = setTimeout(() => { byId("x-live").textContent = text; }, 600);
  }

  function helps(entry, format, out) {
    for (const name of ["N", "D", "G"]) {
      const help = byId(`x-${name}-help`);
      const box = entry.file.box[name];
      const used = has(entry, name);
      const invalid = byId(`x-${name}`).getAttribute("aria-invalid") === "true";
      help.textContent = invalid ? "a number is wanted, such as 595M or 7e9"
        : used ? `fitted from ${explorer.shortCount(box[0])} to ${explorer.shortCount(box[1])}${out[name] > 1 ? `; ${times(out[name])}` : ""}`
        : name === "G" ? "not in this law; it counts for the bytes" : "not in this law; it counts for the baseline";
      help.classList.toggle("warn", invalid || (used && out[name] > 1));
    }
    const own = formats.find((one) => one.name === entry.format);
    byId("x-format-help").textContent = own && own.code !== format.code
      ? `the law's own recipe stores weights in ${own.name}: bytes are those of ${format.name}, the loss is not` : "";
    byId("x-format-help").classList.toggle("warn", Boolean(own) && own.code !== format.code);
    const known = defaultTotal();
    byId("x-total").placeholder = explorer.shortCount(total());
    byId("x-total-help").textContent = state.total !== null ? "the rest beside N counts 2 bytes each"
      : known !== null ? "empty: as this study's records have it for this N" : "empty: N alone; the rest counts 2 bytes each";
    byId("x-budget-help").textContent = explorer.shortBytes(state.budget);
  }

  function logTicks(low, high, text) {
    const ticks = [];
    const decades = Math.log10(high / low);
    const steps = decades > 5 ? [1] : decades > 2.2 ? [1, 3] : decades > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 5, 7];
    const every = decades > 9 ? 3 : decades > 5 ? 2 : 1;
    for (let ten = Math.floor(Math.log10(low)); ten <= Math.ceil(Math.log10(high)); ten++) {
      if (ten % every) continue;
      for (const step of steps) {
        const value = step * 10 ** ten;
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push([value, text(value)]);
      }
    }
    return ticks;
  }

  function drawFront(entry, base, here) {
    const others = total() - state.values.N;
    const sizes = explorer.spaced(ranges.N[0], ranges.N[1], 61);
    if (!sizes.includes(state.values.N)) sizes.push(state.values.N);
    const chosen = [];
    laws.forEach((one, i) => {
      const able = i === state.law || !formOf(one).variables.some((v) => !"NDG".includes(v.name));
      if (!able || (i !== state.law && !state.chosen.has(String(i)))) return;
      const own = formats.find((format) => format.name === one.format);
      chosen.push({
        name: one.name, law: one.file, form: formOf(one), format: i === state.law ? formats[state.format] : own,
        groups: groupsOf(one), at: pointOf(one), color: i === state.law ? 0 : 1 + (i % 4), grouped: has(one, "G"),
      });
    });
    if (state.chosen.has("none")) {
      chosen.push({ name: "unquantized", law: null, form: null, format: formats[0], groups: [1], at: { D: state.values.D }, color: 5, grouped: false });
    }
    const found = explorer.candidates(chosen.map((choice) => ({ ...choice, at: { ...choice.at, D: state.values.D } })), base.file, formOf(base), sizes, others);
    const grouped = new Map(chosen.map((choice) => [choice.name, choice.grouped]));
    for (const point of found) point.grouped = grouped.get(point.name);
    const all = explorer.front(found);
    const low = all.length ? all[0].bytes : 1;
    const high = Math.max(...found.map((point) => point.bytes));
    const series = chosen.map((choice) => {
      const own = explorer.front(found.filter((point) => point.name === choice.name));
      return { name: choice.name, color: choice.color, kind: "line", shape: "hv", dash: choice.law ? "solid" : "dash", x: own.map((p) => p.bytes), y: own.map((p) => p.loss), text: own.map((p) => `${p.name}, N ${explorer.shortCount(p.N)}${p.grouped ? `, G ${p.G}` : ""}`) };
    });
    series.unshift({ name: "front of all", color: "ink", kind: "line", shape: "hv", width: 5, x: all.map((p) => p.bytes), y: all.map((p) => p.loss) });
    series.push({ name: "your choice", color: 1, kind: "points", symbol: 3, size: 12, x: [here.bytes], y: [here.loss] });
    const losses = [...all.map((point) => point.loss), here.loss];
    const top = Math.max(...losses), bottom = Math.min(...losses);
    const room = 0.06 * (top - bottom) || 0.1;
    series.push({ name: "memory budget", color: "grey", kind: "line", dash: "dot", x: [state.budget, state.budget], y: [bottom - room, top + room] });
    const panel = {
      x: { label: "bytes", log: true, ends: [low, high], ticks: logTicks(low, high, explorer.shortBytes) },
      y: { label: "loss, nats per token", log: false, ends: [bottom - room, top + room] },
      series,
    };
    const under = all.filter((point) => point.bytes <= state.budget);
    const best = under.length ? under[under.length - 1] : null;
    draw(byId("x-front"), panel);
    legend(document.querySelector('[data-legend="x-front"]'), [panel]);
    byId("x-front-alt").setAttribute("aria-label",
      `${all.length} models on the front, from ${explorer.shortBytes(low)} at loss ${digits(all[0].loss)} to ${explorer.shortBytes(all[all.length - 1].bytes)} at ${digits(all[all.length - 1].loss)}.`);
    const lawOf = new Map(chosen.map((choice) => [choice.name, choice]));
    /** How far a point is outside what was fitted: of its own law's box and of the baseline's. */
    function farthest(point) {
      const choice = lawOf.get(point.name);
      const boxes = [explorer.outside(base.file, formOf(base), { N: point.N, D: state.values.D })];
      if (choice.law) boxes.push(explorer.outside(choice.law, choice.form, { ...choice.at, N: point.N, G: point.G }));
      return times(Math.max(...boxes.flatMap((box) => Object.values(box))));
    }
    const rows = all.map((point) => {
      const row = document.createElement("tr");
      const texts = [explorer.shortBytes(point.bytes), digits(point.loss, 5), point.name, explorer.shortCount(point.N), point.grouped ? String(point.G) : "–", digits(point.bits, 5), farthest(point)];
      texts.forEach((text, i) => {
        const cell = document.createElement(i ? "td" : "th");
        if (!i) cell.scope = "row";
        cell.textContent = text;
        row.append(cell);
      });
      return row;
    });
    byId("x-front-table").tBodies[0].replaceChildren(...rows);
    return best;
  }

  function drawLine(entry, form, law) {
    const name = state.along;
    const at = pointOf(entry);
    const box = law.box[name];
    const variable = form.variables.find((one) => one.name === name);
    const now = at[name];
    let low = Math.min(box[0], now) / 1.6, high = Math.max(box[1], now) * 1.6;
    if (variable.least_allowed) low = Math.max(low, variable.least);
    if (name === "G") low = Math.max(low, 2);
    const x = explorer.spaced(low, high, 41);
    const y = x.map((one) => explorer.predict(law, form, { ...at, [name]: one }));
    const line = { name: entry.name, color: 0, kind: "line", x, y };
    if (law.draws !== null) {
      const bands = x.map((one) => explorer.interval(law, form, { ...at, [name]: one }, LEVEL));
      line.low = bands.map((band) => band[0]);
      line.high = bands.map((band) => band[1]);
    }
    const value = explorer.predict(law, form, at);
    const panel = {
      x: { label: `${name}, ${variable.unit}`, log: true, ends: [low, high], ticks: logTicks(low, high, explorer.shortCount) },
      y: { label: `${form.target}, ${form.unit}`, log: false },
      series: [line, { name: "your choice", color: 1, kind: "points", symbol: 3, size: 12, x: [now], y: [value] }],
    };
    const shapes = [{ type: "rect", xref: "x", yref: "paper", x0: box[0], x1: box[1], y0: 0, y1: 1, fillcolor: theme().shade, line: { width: 0 }, layer: "below" }];
    draw(byId("x-line"), panel, { shapes });
    byId("x-line-alt").setAttribute("aria-label",
      `${form.target} from ${digits(y[0])} at ${name} ${explorer.shortCount(low)} to ${digits(y[y.length - 1])} at ${explorer.shortCount(high)}; the fitted box is ${explorer.shortCount(box[0])} to ${explorer.shortCount(box[1])}.`);
  }

  function schedule() {
    if (!frame) frame = window.requestAnimationFrame(explore);
  }

  function bind(name, set) {
    const text = byId(`x-${name}`);
    const slider = byId(`x-${name}-slider`);
    slider.addEventListener("input", () => {
      const value = valueAt(name, Number(slider.value));
      text.setAttribute("aria-invalid", "false");
      set(value);
      show(name, value);
      schedule();
    });
    text.addEventListener("input", () => {
      const value = explorer.parseCount(text.value);
      const good = Number.isFinite(value) && value > 0 && (name !== "G" || value >= 1);
      text.setAttribute("aria-invalid", String(!good));
      if (good) {
        set(value);
        show(name, value, true);
      }
      schedule();
    });
  }

  function begin() {
    if (!laws.length || !baselines.length) {
      byId("x-form").hidden = true;
      return;
    }
    byId("x-law").append(...laws.map((entry, i) => option(entry.name, String(i))));
    byId("x-baseline").append(...baselines.map((entry, i) => option(entry.name, String(i))));
    byId("x-format").append(...formats.map((format, i) => option(format.name, String(i))));
    state.chosen.add("none");
    for (const name of ["N", "D", "G"]) bind(name, (value) => { state.values[name] = value; });
    bind("budget", (value) => { state.budget = value; });
    byId("x-form").addEventListener("submit", (event) => event.preventDefault());
    byId("x-law").addEventListener("change", (event) => chooseLaw(Number(event.target.value), false));
    byId("x-baseline").addEventListener("change", (event) => { state.baseline = Number(event.target.value); schedule(); });
    byId("x-format").addEventListener("change", (event) => {
      state.format = Number(event.target.value);
      const bits = formOf(laws[state.law]).variables.find((variable) => variable.name === "P" && !variable.levels.length);
      if (bits) {
        state.others.P = formats[state.format].code;
        otherFields();
      }
      schedule();
    });
    byId("x-along").addEventListener("change", (event) => { state.along = event.target.value; schedule(); });
    byId("x-reset").addEventListener("click", () => chooseLaw(state.law, false));
    byId("x-total").addEventListener("input", (event) => {
      const text = event.target.value.trim();
      const value = explorer.parseCount(text);
      const good = text === "" || (Number.isFinite(value) && value > 0);
      event.target.setAttribute("aria-invalid", String(!good));
      if (good) state.total = text === "" ? null : value;
      schedule();
    });
    chooseLaw(0, false);
    explore();
  }

  // ---------------------------------------------------------------- when figures are drawn

  const plots = [...document.querySelectorAll(".plot[data-figure]")];

  function redraw() {
    legends();
    for (const element of plots) if (element.dataset.drawn) draw(element, element.panel, element.extra);
    explore();
  }

  const seenPlots = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        seenPlots.unobserve(entry.target);
        drawPlot(entry.target);
      }
    }
  }, { rootMargin: "300px" });

  /** The plots that nobody has scrolled to yet, one at a time while the page has nothing else to do. */
  function drawRest(deadline) {
    const next = plots.filter((element) => !element.dataset.drawn && element.offsetParent !== null);
    while (next.length && deadline.timeRemaining() > 15) drawPlot(next.shift());
    if (next.length) later(drawRest);
    else performance.mark("all drawn");
  }

  const later = window.requestIdleCallback
    || ((call) => setTimeout(() => call({ timeRemaining: () => 50 }), 30));

  // ---------------------------------------------------------------- start, colors, print

  /** The library takes most of the time that the page takes to open: text, tables and the explorer's numbers go first. */
  function loadPlotly() {
    const script = document.createElement("script");
    script.textContent = byId("plotly").textContent;
    document.head.append(script);
    for (const element of [byId("x-front"), byId("x-line")]) {
      if (element && element.panel) draw(element, element.panel, element.extra);
    }
    for (const element of plots) {
      const top = element.getBoundingClientRect().top;
      if (top < window.innerHeight && element.offsetParent !== null) drawPlot(element);
      else seenPlots.observe(element);
    }
    performance.mark("in sight");
    later(drawRest);
  }

  begin();
  legends();
  dark.addEventListener("change", redraw);
  performance.mark("explorer");
  window.requestAnimationFrame(() => setTimeout(loadPlotly, 0));

  window.addEventListener("beforeprint", () => {
    figures.print(true);
    if (!window.Plotly) loadPlotly();
    const all = [...plots, byId("x-front"), byId("x-line")].filter((element) => element !== null);
    for (const element of all) {
      const alone = element.closest(".panels").children.length === 1;
      element.size = alone ? { width: 620, height: 300 } : { width: 320, height: 250 };
      element.style.width = `${element.size.width}px`;
    }
    for (const element of plots) drawPlot(element);
    redraw();
  });
  window.addEventListener("afterprint", () => {
    figures.print(false);
    for (const element of [...plots, byId("x-front"), byId("x-line")]) {
      delete element.size;
      element.style.width = "";
    }
    redraw();
    window.dispatchEvent(new Event("resize"));
  });
})();
