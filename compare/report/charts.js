// What each figure looks like: functions from the numbers in the page, the optimizers shown and the switches to what
// Plotly.react takes.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const NAMES = Object.keys(DATA.optimizers);
const off = new Set(); // the optimizers that are hidden
const choice = { clock: "steps", rate: "hit", variant: "tuned", frame: Infinity }; // the switches

const dark = () => document.documentElement.dataset.theme === "dark";
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const color = (name) => DATA.optimizers[name][dark() ? "dark" : "light"];
const shown = (lines) => NAMES.filter((name) => name in lines && !off.has(name));
const faded = (hex, opacity) => hex + Math.round(255 * opacity).toString(16).padStart(2, "0");
const short = (value) => value === null ? "–" : Number(value.toPrecision(3)).toString().replace("e+", "e");

// Lines that coincide would hide each other: those shown take turns, dash by dash. `same` names the first of each group.
function together(name, same) {
  return name in same ? NAMES.filter((other) => same[other] === same[name] && !off.has(other)) : [name];
}
function stroke(name, width, same) {
  const names = together(name, same), turn = names.indexOf(name), after = names.length - 1 - turn;
  const dash = after + turn ? `0px,${7 * turn}px,7px,${7 * after}px` : DATA.optimizers[name].dash;
  return { color: color(name), width, dash };
}
const label = (name, same) => together(name, same).join(" = ");
const rings = (name, same, size) => size + 5 * (together(name, same).reverse().indexOf(name)); // dots that coincide

function axis(title, options = {}) {
  return {
    title: { text: title, font: { size: 12, color: token("--muted") }, standoff: 6 },
    tickfont: { size: 11, color: token("--muted") },
    gridcolor: token("--line"), zeroline: false, linecolor: token("--line"), ticks: "", automargin: true,
    ...(options.type === "log" ? { exponentformat: "e", dtick: decades(options.range), minor: { ticks: "" } } : {}),
    ...options,
  };
}

// As many powers of ten as fit: every one of five decades, every second of ten, ...
function decades(range) {
  return range ? Math.max(1, Math.ceil((range[1] - range[0]) / 5)) : 1;
}

function layout(x, y, options = {}) {
  return {
    xaxis: x, yaxis: y, showlegend: false, hovermode: "closest", dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 48, r: 12, t: 8, b: 40 },
    font: { family: "system-ui, sans-serif", color: token("--text") },
    hoverlabel: { bgcolor: token("--panel"), bordercolor: token("--line"), font: { color: token("--text"), size: 12 } },
    shapes: [], annotations: [], ...options,
  };
}

const across = (y, style) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, layer: "below", line: style });

const FIGURES = {
  profile() {
    const { lines, same } = DATA.profile[choice.clock];
    const traces = shown(lines).map((name) => ({
      x: lines[name][0], y: lines[name][1].map((share) => 100 * share), name, mode: "lines", line: { ...stroke(name, 2.5, same), shape: "hv" },
      hovertemplate: `${label(name, same)}: %{y:.0f} % within %{x:.2f}×<extra></extra>`,
    }));
    const range = [-0.01, Math.log10(16)];
    return [traces, layout(
      axis(`τ: ${{ steps: "steps", cpu: "CPU time", gradients: "gradient evaluations" }[choice.clock]} over the best optimizer's`, { type: "log", range, tickvals: [1, 2, 4, 8, 16], ticktext: ["1×", "2×", "4×", "8×", "16×"] }),
      axis("problems solved", { range: [-2, 103], ticksuffix: " %" }),
      { shapes: [{ type: "rect", yref: "paper", x0: 1, x1: 4, y0: 0, y1: 1, layer: "below", line: { width: 0 }, fillcolor: faded(token("--muted"), 0.08) }] },
    )];
  },

  curves(problem) {
    const { lines, same, target, range, metric, budget } = DATA.curves[problem];
    const type = range.log ? "log" : "linear";
    const limits = range.log ? [Math.log10(range.low), Math.log10(range.high)] : [range.low, range.high];
    const traces = [];
    const opacity = Math.min(dark() ? 0.2 : 0.14, 0.7 / shown(lines).length); // many bands over each other hide the lines
    for (const name of shown(lines)) {
      const line = lines[name];
      const known = line.steps.map((_, index) => index).filter((index) => line.high[index] !== null);
      const back = [...known].reverse();
      traces.push({
        x: [...known, ...back].map((index) => line.steps[index]),
        y: [...known.map((index) => line.high[index]), ...back.map((index) => line.low[index])].map((value) => range.log ? Math.max(value, range.low * 1e-3) : value),
        fill: "toself", fillcolor: faded(color(name), opacity), mode: "lines", line: { width: 0 }, hoverinfo: "skip",
      });
    }
    for (const name of shown(lines)) {
      const line = lines[name];
      traces.push({ x: line.steps, y: line.median, name, mode: "lines", line: stroke(name, 1.8, same), hovertemplate: `${label(name, same)}: %{y:.3g} at step %{x}<extra></extra>` });
      const ends = line.ends.map(([step, value]) => [step, Math.min(Math.max(value, range.low), range.high)]); // else they are out of the figure
      if (ends.length) traces.push({ x: ends.map(([step]) => step), y: ends.map(([, value]) => value), mode: "markers", cliponaxis: false, marker: { symbol: "x-thin", size: 8, line: { color: color(name), width: 2 } }, hovertemplate: `${name}: a run diverged or failed after step %{x}<extra></extra>` });
      if (line.hit !== null) {
        const index = line.steps.findIndex((step) => step >= line.hit);
        traces.push({ x: [line.hit], y: [line.median[index]], mode: "markers", marker: { color: color(name), size: rings(name, same, 7), line: { color: token("--bg"), width: 1.5 } }, hovertemplate: `${label(name, same)}: target at step %{x}<extra></extra>` });
      }
    }
    const goal = target === null ? [] : [across(target, { color: token("--text"), width: 1, dash: "dash" })];
    const [tickvals, ticktext] = range.log ? ticks(...limits, true) : [];
    return [traces, layout(axis("steps", { range: [0, budget], showgrid: false, nticks: 5 }), axis(metric, { type, range: limits, tickvals, ticktext }), { shapes: goal })];
  },

  rates(problem) {
    const { lines } = DATA.rates[problem], same = DATA.rates[problem].same[choice.rate];
    const final = choice.rate === "final";
    const all = shown(lines);
    const every = NAMES.filter((name) => name in lines);
    const values = every.flatMap((name) => lines[name][choice.rate]).filter((value) => value !== null && value > 0);
    const low = Math.log10(Math.min(...values, 1e300)), high = Math.log10(Math.max(...values, 1e-300));
    const span = values.length ? Math.max(high - low, 0.3) : 1, base = values.length ? low : 0;
    const top = base + span * 1.14; // where misses are drawn: above all numbers, for a miss is no number
    const lrs = every.flatMap((name) => lines[name].lr).map(Math.log10);
    const traces = [];
    for (const name of all) {
      const { lr, chosen } = lines[name];
      const value = lines[name][choice.rate];
      const known = value.map((item) => item !== null);
      const y = value.map((item, index) => known[index] ? Math.max(item, 10 ** base) : known[index - 1] || known[index + 1] ? 10 ** top : null);
      traces.push({ x: lr, y, name, mode: "lines+markers", line: stroke(name, 1.8, same), marker: { size: known.map((here) => here ? 5 : 0), color: color(name) }, text: value.map((item) => item === null ? final ? "diverged" : "a miss" : short(item)), hovertemplate: `${label(name, same)}: lr %{x:.2g}, %{text}<extra></extra>` });
      for (const [rate, symbol, what] of [[lines[name].default, "circle-open", "default"], [chosen, "circle", "chosen"]]) {
        const index = rate === null ? -1 : lr.findIndex((value) => Math.abs(Math.log(value / rate)) < 1e-3);
        if (index >= 0) traces.push({ x: [lr[index]], y: [y[index] ?? 10 ** top], mode: "markers", marker: { symbol, size: rings(name, same, 10), color: color(name), line: { color: symbol === "circle" ? token("--bg") : color(name), width: 1.5 } }, hovertemplate: `${name}: lr %{x:.2g}, ${what}<extra></extra>` });
      }
    }
    const range = [base - 0.08 * span, top + 0.06 * span];
    const extent = [Math.min(...lrs) - 0.15, Math.max(...lrs) + 0.15];
    const [tickvals, ticktext] = ticks(base, base + span, final);
    return [traces, layout(
      axis("learning rate", { type: "log", range: extent, showgrid: false }),
      axis(final ? DATA.curves[problem].metric + " at the end" : "steps to the target", { type: "log", range, dtick: undefined, tickvals: [...tickvals, 10 ** top], ticktext: [...ticktext, final ? "diverged" : "miss"] }),
    )];
  },

  paths(problem) {
    const race = DATA.races[problem];
    const gray = dark() ? [[0, "#3a4350"], [1, "#12161b"]] : [[0, "#cfd8e3"], [1, "#ffffff"]];
    const contours = { type: "contour", x: race.x, y: race.y, z: race.z, ncontours: 18, colorscale: gray, showscale: false, line: { width: 0.5, color: token("--muted"), smoothing: 0.6 }, opacity: 0.9, hoverinfo: "skip" };
    const minima = { x: race.minima.map((p) => p[0]), y: race.minima.map((p) => p[1]), mode: "markers", marker: { symbol: "star", size: 13, color: token("--text"), line: { color: token("--bg"), width: 1 } }, hovertemplate: "minimum<extra></extra>" };
    const names = shown(race[choice.variant]), same = race.same[choice.variant];
    const moving = names.flatMap((name) => {
      const { line, head } = position(race, name);
      const lr = race[choice.variant][name].lr;
      const text = `${label(name, same)}, ${lr === null ? "own lr" : "lr " + short(lr)}<extra></extra>`;
      return [
        { ...line, name, mode: "lines", line: stroke(name, 1.8, same), hovertemplate: text },
        { ...head, name, mode: "markers", marker: { size: rings(name, same, 8), color: color(name), line: { color: token("--bg"), width: 1.2 } }, hovertemplate: text },
      ];
    });
    const range = (values) => [values[0], values[values.length - 1]];
    return [[contours, ...moving, minima], layout(
      axis("", { range: range(race.x), showgrid: false, fixedrange: false, constrain: "domain" }),
      axis("", { range: range(race.y), showgrid: false }),
      { margin: { l: 28, r: 8, t: 6, b: 26 }, annotations: [{ text: `step ${step(race)} of ${race.steps}`, xref: "paper", yref: "paper", x: 0.98, y: 0.97, xanchor: "right", yanchor: "top", showarrow: false, bgcolor: faded(token("--bg"), 0.75), font: { size: 11, color: token("--muted") } }] },
    )];
  },

  time() {
    const costs = DATA.costs[document.getElementById("problem").value];
    const names = shown(costs).sort((a, b) => total(costs[b]) - total(costs[a]));
    const parts = DATA.split ? ["forward", "backward", "update"] : ["forward and backward", "", "update"];
    const shades = [token("--line"), faded(token("--muted"), 0.55), null];
    const traces = parts.map((part, index) => ({
      type: "bar", orientation: "h", y: names, x: names.map((name) => costs[name][index]), name: part,
      marker: { color: shades[index] ?? names.map(color) }, hovertemplate: `%{y}: ${part} %{x:.0f} µs<extra></extra>`, width: 0.62,
    })).filter((trace) => trace.name);
    return [traces, bars(names, "µs per step", {})];
  },

  memory() {
    const names = shown(DATA.memory).sort((a, b) => DATA.memory[b] - DATA.memory[a]);
    const trace = { type: "bar", orientation: "h", y: names, x: names.map((name) => DATA.memory[name]), text: names.map((name) => DATA.memory[name].toFixed(1) + "×"), textposition: "outside", cliponaxis: false, marker: { color: names.map(color) }, hovertemplate: "%{y}: %{x:.2f}×<extra></extra>", width: 0.62, textfont: { color: token("--muted") } };
    return [[trace], bars(names, "state / parameters", { ticksuffix: "×" })];
  },
};

const total = (parts) => parts.reduce((sum, part) => sum + (part ?? 0), 0);

function bars(names, title, options) {
  return layout(axis(title, { rangemode: "tozero", nticks: 5, ...options }), axis("", { showgrid: false, tickfont: { size: 12, color: token("--text") } }), { barmode: "stack", height: 80 + 27 * Math.max(names.length, 3), margin: { l: 60, r: 40, t: 4, b: 44 } });
}

// Ticks of a logarithmic axis: powers of ten where it spans some, else 1, 2, 5.
function ticks(low, high, powers) {
  const tickvals = [];
  const stride = Math.max(1, Math.ceil((high - low) / 5));
  const steps = high - low > 2.2 ? [1] : [1, 2, 5];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    for (const factor of steps) {
      const value = factor * 10 ** power;
      if (Math.log10(value) >= low - 0.05 && Math.log10(value) <= high + 0.03 && (steps.length > 1 || power % stride === 0)) tickvals.push(value);
    }
  }
  return [tickvals, tickvals.map((value) => powers && (value < 1e-3 || value >= 1e5) ? value.toExponential(0).replace(/e([+-]\d+)/, (_, power) => `e${Number(power)}`) : short(value))];
}

const step = (race) => race.frames[Math.min(choice.frame, race.frames.length - 1)];

// Where an optimizer has come by the frame shown.
function position(race, name) {
  const { x, y } = race[choice.variant][name];
  const end = Math.min(Math.floor(step(race) / race.stride), x.length - 1);
  return { line: { x: x.slice(0, end + 1), y: y.slice(0, end + 1) }, head: { x: [x[end]], y: [y[end]] } };
}
