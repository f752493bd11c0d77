// What the page does: draw figures when they come near, redraw them when a switch, the legend or the theme changes,
// race, sort, filter, download.

// What is in the page as base64 of gzip.
async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
}

const root = document.documentElement;
const charts = [...document.querySelectorAll(".chart")];
const near = new Set();
const stale = new Set(charts);

function draw(chart) {
  const [traces, options] = FIGURES[chart.dataset.figure](chart.dataset.key);
  if (options.height) chart.style.height = `${options.height}px`;
  stale.delete(chart);
  return Plotly.react(chart, traces, options, { displayModeBar: false, responsive: true, doubleClick: "reset" });
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    near[isIntersecting ? "add" : "delete"](target);
    if (isIntersecting && stale.has(target)) draw(target);
  }
}, { rootMargin: "400px" });
unpack("plotly").then((blob) => blob.text()).then((source) => {
  const script = document.createElement("script");
  script.textContent = source;
  document.head.append(script);
  charts.forEach((chart) => watcher.observe(chart)); // not before there is something to draw with
});
addEventListener("beforeprint", () => stale.forEach(draw));

function redraw(which = () => true) {
  for (const chart of charts.filter((chart) => which(chart.dataset.figure))) {
    stale.add(chart);
    if (near.has(chart)) draw(chart);
  }
}

// Theme: the system's until it is chosen.
const system = matchMedia("(prefers-color-scheme: dark)");
function setTheme(theme) {
  root.dataset.theme = theme;
  redraw();
}
setTheme(system.matches ? "dark" : "light");
system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", () => setTheme(dark() ? "light" : "dark"));

// The legend: one for all figures and tables.
const chips = [...document.querySelectorAll(".optimizer")];
function show(hidden) {
  off.clear();
  hidden.forEach((name) => off.add(name));
  for (const chip of chips) chip.setAttribute("aria-pressed", String(!off.has(chip.dataset.optimizer)));
  for (const cell of document.querySelectorAll("main [data-optimizer]")) cell.hidden = off.has(cell.dataset.optimizer);
  redraw();
}
for (const chip of chips) {
  const name = chip.dataset.optimizer;
  chip.addEventListener("click", () => show(off.has(name) ? [...off].filter((other) => other !== name) : [...off, name]));
  chip.addEventListener("dblclick", () => show(NAMES.filter((other) => other !== name)));
}
document.getElementById("all").addEventListener("click", () => show([]));

// Switches between quantities.
for (const group of document.querySelectorAll(".switch")) {
  group.addEventListener("click", ({ target }) => {
    const value = target.dataset.value, name = group.dataset.switch;
    if (!value) return;
    for (const button of group.children) button.setAttribute("aria-pressed", String(button === target));
    if (name === "cell") {
      for (const table of document.querySelectorAll(".heat")) table.hidden = table.dataset.cell !== value;
    } else {
      choice[name] = value;
      redraw((figure) => figure === { clock: "profile", rate: "rates", variant: "paths" }[name]);
    }
  });
}
document.getElementById("problem")?.addEventListener("change", () => redraw((figure) => figure === "time"));

// The race: frames move the lines and leave the contours alone.
const time = document.getElementById("time"), play = document.getElementById("play");
let running = null;
function move(frame) {
  choice.frame = frame;
  time.value = frame;
  for (const chart of charts.filter((chart) => chart.dataset.figure === "paths")) {
    if (!near.has(chart) || stale.has(chart)) { stale.add(chart); continue; }
    const race = DATA.races[chart.dataset.key];
    const places = shown(race[choice.variant]).flatMap((name) => Object.values(position(race, name)));
    Plotly.animate(chart, { data: places, traces: places.map((_, index) => index + 1) }, { mode: "immediate", transition: { duration: 0 }, frame: { duration: 0, redraw: false } });
    const label = chart.querySelector(".annotation-text");
    if (label) label.textContent = `step ${step(race)} of ${race.steps}`;
  }
}
function stop() {
  clearInterval(running);
  running = null;
  play.textContent = "▶ Race";
}
time?.addEventListener("input", () => { stop(); move(Number(time.value)); });
play?.addEventListener("click", () => {
  if (running) return stop();
  const last = Number(time.max);
  let frame = Number(time.value) >= last ? 0 : Number(time.value);
  play.textContent = "❚❚ Pause";
  move(frame);
  running = setInterval(() => frame < last ? move(++frame) : stop(), 90);
});

// Tables: sorted by a click on a heading; what is no number comes last.
const content = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = parseFloat(text);
  return Number.isNaN(number) || /^[a-z]/i.test(text) ? text : number;
};
const missing = (value) => value === "" || value === "–";
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return typeof a === "number" ? -1 : typeof b === "number" ? 1 : a.localeCompare(b);
}
for (const table of document.querySelectorAll(".sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.tabIndex = 0;
    const sort = () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [content(row, column), row]);
      rows.sort(([a], [b]) => missing(a) || missing(b) ? missing(a) - missing(b) : down ? compare(b, a) : compare(a, b));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", ({ key }) => key === "Enter" && sort());
  });
}

// Every run: the rows are made when they are asked for.
const runs = document.getElementById("runs");
runs?.addEventListener("toggle", () => {
  const body = document.getElementById("trials").tBodies[0];
  if (!runs.open || body.rows.length) return;
  for (const trial of DATA.trials) {
    const row = body.insertRow();
    row.dataset.optimizer = trial[1];
    row.hidden = off.has(trial[1]);
    trial.forEach((value, column) => {
      const cell = row.insertCell();
      cell.textContent = typeof value === "string" ? value : short(value);
      if (typeof value === "string") cell.className = "text";
      else cell.dataset.value = value ?? "";
    });
  }
  filter();
});
function filter() {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of document.getElementById("trials").tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase());
    const fits = words.every((word) => cells.includes(word)) || words.every((word) => text.includes(word));
    row.classList.toggle("filtered", !fits);
    count += fits && !row.hidden;
  }
  document.getElementById("count").textContent = `${count} shown`;
}
document.getElementById("filter")?.addEventListener("input", filter);

document.getElementById("download")?.addEventListener("click", async () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await unpack("archive"));
  link.download = "comparison.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
