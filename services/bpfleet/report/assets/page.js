"use strict";
// Draws the page from the JSON beside it. No library, no network.
const DATA = JSON.parse(document.getElementById("data").textContent);
const MODELS = DATA.meta.models.map((m) => m.name);
const STATUS = [
  ["ok", "all replicas run, nothing refused", ""],
  ["refused", "all run, some updates refused with ENOMEM", "·"],
  ["eperm", "crash-looping on EPERM", "P"],
  ["enomem", "crash-looping on ENOMEM", "M"],
  ["e2big", "crash-looping on E2BIG", "B"],
  ["failed", "crash-looping for another reason", "!"],
  ["oom", "a process was OOM-killed", "K"],
];
const GLYPH = Object.fromEntries(STATUS.map(([key, , glyph]) => [key, glyph]));
const SERIES = 12;
const SHOWN_SERIES = 9;

// -- small helpers
const $ = (id) => document.getElementById(id);
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}
function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
function bytes(n) {
  let value = Math.abs(n), unit = 0;
  while (value >= 1023.95 && unit < UNITS.length - 1) { value /= 1024; unit += 1; }
  const digits = value >= 100 || unit === 0 ? 0 : value >= 10 ? 1 : 2;
  return (n < 0 ? "−" : "") + Number(value.toFixed(digits)).toLocaleString("en") + " " + UNITS[unit];
}
const count = (n) => n.toLocaleString("en");
const seconds = (s) => Number(s.toFixed(1)).toLocaleString("en");
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many || one + "s"}`;
function tip(text) {
  return {
    onmousemove: (event) => {
      const box = $("tip");
      box.textContent = text;
      box.hidden = false;
      const left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8);
      const top = event.clientY + 18 + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 10 : event.clientY + 18;
      box.style.left = `${Math.max(8, left)}px`;
      box.style.top = `${top}px`;
    },
    onmouseleave: () => { $("tip").hidden = true; },
  };
}
function segmented(id, options, selected, onselect) {
  const box = $(id);
  const buttons = options.map(([value, label]) =>
    el("button", { type: "button", "aria-pressed": String(value === selected), "data-value": value,
      onclick: () => {
        for (const b of box.children) b.setAttribute("aria-pressed", String(b.dataset.value === value));
        onselect(value);
      } }, label));
  box.replaceChildren(...buttons);
}
function table(id, head, rows) {
  const node = $(id);
  node.replaceChildren(el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
}
// What tells series apart without colour: a texture on areas, dashes and the shape of points on lines.
const TEXTURES = [
  "", "M-1 5L5 -1M3 9L9 3", "M0 4H8", "M4 0V8", "M-1 3L5 9M3 -1L9 5", "M0 4H8M4 0V8", "M2 2h1v1h-1zM6 6h1v1h-1z", "M0 2H8M0 6H8", "M2 0V8M6 0V8", "M-1 5L5 -1M3 9L9 3M-1 3L5 9M3 -1L9 5",
];
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2", "1 3", "14 3 3 3", "5 5", "9 2 2 2 2 2", "3 6", "16 4 1 4"];
const texture = (index) => `url(#texture-${index % TEXTURES.length})`;
function drawTextures() {
  const patterns = TEXTURES.map((d, i) => svg("pattern", { id: `texture-${i}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" }, svg("path", { d, stroke: "var(--panel)", "stroke-width": 1.6, fill: "none" })));
  document.body.prepend(svg("svg", { class: "textures", "aria-hidden": "true", width: 0, height: 0 }, svg("defs", {}, ...patterns)));
}
function swatch(fill, index) {
  return svg("svg", { class: "swatch", viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("rect", { width: 14, height: 14, rx: 3, fill }), svg("rect", { width: 14, height: 14, rx: 3, fill: texture(index) }));
}
function point(index, x, y, attributes) {
  const shape = [`M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`, `M${x - 3.6} ${y - 3.6}h7.2v7.2h-7.2z`, `M${x} ${y - 5}l4.6 8h-9.2z`, `M${x} ${y - 5}l5 5l-5 5l-5 -5z`, `M${x} ${y + 5}l4.6 -8h-9.2z`][index % 5];
  return svg("path", { d: shape, fill: colour(index), ...attributes });
}
const cellClass = (value, bad) => (value === 0 ? "zero" : bad ? "bad" : "");
const colour = (index) => (index < SERIES ? `var(--c${index})` : "var(--cx)");
function niceTop(value) {
  if (value <= 0) return 1;
  const power = 2 ** Math.floor(Math.log2(value));
  for (const step of [1, 1.25, 1.5, 1.75, 2]) if (power * step >= value) return power * step;
  return power * 2;
}

// -- summary
const BAD = new Set(["in trouble", "crash-looping", "OOM-killed", "first ones failed", "restarts failed", "updates refused", "EPERM", "ENOMEM", "E2BIG", "OOM kills"]);
function modelHead(m) {
  return el("th", {}, m.name, el("span", { class: "kind" }, m.kind), el("span", { class: "kind" }, m.known_by));
}
function drawSummary() {
  const meta = DATA.meta;
  $("lead").textContent = `${plural(meta.nodes, "node")}, ${plural(meta.replicas, "replica")}, ` +
    `${plural(meta.steps, "step")} of ${meta.step_s} s, seed ${meta.seed}. ${MODELS.length > 1 ? `The same operations under ${count(MODELS.length)} models.` : `Under ${MODELS[0]}.`}`;
  drawFates();
  drawIntervals();
  $("verdict").textContent = DATA.verdict;
  $("findings").replaceChildren(...DATA.findings.map((text) => el("li", {}, text)));
  table("outcomes", [el("th", {}, ""), ...meta.models.map(modelHead)], DATA.rows.flatMap((row, i) => [
    ...(i && DATA.rows[i - 1].section === row.section ? [] : [el("tr", { class: "section" }, el("th", { colspan: meta.models.length + 1, scope: "rowgroup" }, row.section))]),
    el("tr", {}, el("th", {}, row.label, el("span", { class: "meaning" }, row.note)), ...row.values.map((value) =>
      el("td", { class: cellClass(value, BAD.has(row.label)) }, row.unit === "bytes" ? bytes(value) : count(value))))]));
  const keys = [...new Set(MODELS.flatMap((m) => Object.keys(DATA.refused[m])))].sort();
  table("refused", [el("th", {}, "call, errno, reason"), ...MODELS.map((m) => el("th", {}, m))], keys.map((key) =>
    el("tr", {}, el("th", {}, key.replaceAll("_", "_\u200b")), ...MODELS.map((m) => {
      const value = DATA.refused[m][key] || 0;
      return el("td", { class: cellClass(value, false) }, count(value));
    }))));
}

function drawIntervals() {
  const found = DATA.repetitions;
  if (!found) return;
  $("intervals-box").hidden = false;
  const shown = (row, v) => (row.unit === "bytes" ? bytes(v) : Number(v.toFixed(1)).toLocaleString("en"));
  table("intervals", [el("th", {}, `${plural(found.seeds.length, "seed")}`), ...found.models.map((m) => el("th", {}, m))], found.rows.map((row) =>
    el("tr", {}, el("th", {}, row.label), ...row.mean.map((mean, i) => el("td", {}, row.half_width[i] ? `${shown(row, mean)} ± ${shown(row, row.half_width[i])}` : shown(row, mean))))));
}
const FATES = { "runs": "ok", "updates refused": "refused", "EPERM": "eperm", "ENOMEM": "enomem", "E2BIG": "e2big", "fails": "failed", "OOM-killed": "oom" };
const FATE_WORDS = { "runs": "runs", "updates refused": "runs, updates refused", "fails": "fails otherwise" };
function drawFates() {
  const present = Object.keys(FATES).filter((fate) => MODELS.some((m) => DATA.fates[m][fate]));
  const legend = el("div", { class: "legend" }, ...present.map((fate) => el("span", {}, el("i", { class: `swatch s-${FATES[fate]}` }), FATE_WORDS[fate] || fate)));
  const rows = MODELS.map((model) => {
    const counts = DATA.fates[model];
    const total = Object.values(counts).reduce((a, b) => a + b, 0) || 1;
    const parts = present.filter((fate) => counts[fate]).map((fate) => el("div", { class: `part s-${FATES[fate]}`, style: `flex-grow:${counts[fate]}`,
      ...tip(`${model}: ${plural(counts[fate], "replica")} of ${count(total)}, ${FATE_WORDS[fate] || fate}`) }, count(counts[fate])));
    return el("div", { class: "fate" }, el("div", { class: "label" }, model), el("div", { class: "parts" }, ...parts));
  });
  $("fates").replaceChildren(legend, ...rows);
}

// -- upgrade
function drawUpgrade() {
  const found = DATA.upgrade;
  if (!found) return;
  $("upgrade").hidden = false;
  $("upgrade-title").textContent = `The upgrade from ${found.from} to ${found.to}`;
  $("upgrade-verdict").textContent = found.verdict;
  $("upgrade-note").textContent = found.note;
  const arrow = ([a, b]) => (a === b ? a : `${a} → ${b}`);
  const badge = (line) => el("span", { class: `pill s-${line.change === "unchanged" ? "ok" : /stops? failing$/.test(line.change) ? "good" : FATES[line.after] || "failed"}` }, line.change);
  const head = ["workload", "nodes", "replicas", "change", "first start", "restart", "memory.max", "raise to"];
  table("upgrade-table", head.map((h, i) => el("th", { class: [1, 3, 4, 5].includes(i) ? "text" : "" }, h)), found.workloads.map((line) => el("tr", {},
    el("th", {}, line.workload), el("td", { class: "text" }, line.group), el("td", {}, count(line.replicas)), el("td", { class: "text" }, badge(line)),
    el("td", { class: "text" }, arrow(line.first_start)), el("td", { class: "text" }, arrow(line.restart)),
    el("td", {}, line.limit_bytes === null ? "max" : bytes(line.limit_bytes)), el("td", { class: line.raise_to_bytes === null ? "" : "bad" }, line.raise_to_bytes === null ? "" : bytes(line.raise_to_bytes)))));
}

// -- fleet
function squareSize() {
  return DATA.nodes.length > 1500 ? "tiny" : DATA.nodes.length > 120 ? "small" : "";
}
// A square's colour by what is asked: the worst outcome, or a share in steps of one hue.
const VIEWS = {
  outcome: { label: "worst outcome" },
  down: { label: "replicas not running", share: (cell) => (cell.placed ? (cell.placed - cell.running) / cell.placed : 0), hue: "var(--oom)", unit: "of the node's replicas", text: (cell) => (cell.placed - cell.running ? count(cell.placed - cell.running) : "") },
  charged: { label: "charged share of memory", share: (cell, node) => cell.charged_bytes / node.ram_bytes, hue: "var(--c0)", unit: "of the node's memory", text: (cell, node) => (100 * cell.charged_bytes / node.ram_bytes).toFixed(0) },
};
const LEVELS = [0, 0.05, 0.1, 0.25, 0.5, 1];
const shade = (hue, share) => {
  const level = LEVELS.findIndex((top) => share <= top);
  return `background:color-mix(in srgb, ${hue} ${[0, 18, 36, 54, 75, 100][level < 0 ? 5 : level]}%, var(--ok));color:var(${level < 0 || level > 3 ? "--on-strong" : "--ink"})`;
};
function drawFleet(by) {
  const view = VIEWS[by];
  $("legend").replaceChildren(...(view.share
    ? LEVELS.map((top, i) => el("span", {}, el("i", { class: "swatch", style: shade(view.hue, top) }), i === 0 ? "none" : `up to ${top * 100} %${i === LEVELS.length - 1 ? ` ${view.unit}` : ""}`))
    : STATUS.filter(([key]) => DATA.nodes.some((n) => MODELS.some((m) => n.cells[m].status === key))).map(([key, text, glyph]) =>
      el("span", {}, el("i", { class: `swatch s-${key}` }), glyph ? `${text} (${glyph})` : text))));
  const groups = [...new Set(DATA.nodes.map((n) => n.group))];
  const pitch = { "": 29, small: 15, tiny: 7 }[squareSize()];
  const members = Object.fromEntries(groups.map((group) => [group, DATA.nodes.filter((n) => n.group === group)]));
  // A group is as wide as its squares, up to the width of the page, so that columns stay below each other.
  const width = (group) => `width:${Math.min(Math.max(190, members[group].length * pitch), groups.length > 1 ? 480 : 980)}px`;
  const column = (group, ...children) => el("div", { class: "heat-col", style: width(group) }, ...children);
  const rows = MODELS.map((model) => el("div", { class: `heat-row ${squareSize()}`, role: "row" },
    el("div", { class: "label", role: "rowheader" }, model),
    el("div", { class: "heat-groups" }, ...groups.map((group) => column(group, el("div", { class: "heat-group" }, ...members[group].map((n) => square(n, model, view))))))));
  const names = el("div", { class: "heat-row group-names" }, el("div", {}, ""), el("div", { class: "heat-groups" },
    ...groups.map((group) => column(group, `${group}: ${plural(members[group].length, "node")}, ${plural(members[group][0].possible_cpus, "CPU")}, ${bytes(members[group][0].ram_bytes)}`))));
  const held = place($("heat").querySelector('[tabindex="0"]'));
  $("heat").replaceChildren(...rows);
  $("heat").before(...(document.querySelector(".group-names") ? [] : [names]));
  rove((rowsOfSquares()[held.row] || [])[held.at] || rowsOfSquares()[0]?.[0]);
}
// One square is a tab stop; arrow keys move it. Else a fleet would be hundreds of them.
const rowsOfSquares = () => [...$("heat").querySelectorAll('[role="row"]')].map((row) => [...row.querySelectorAll(".square")]);
function place(square) {
  const rows = rowsOfSquares(), row = Math.max(0, rows.findIndex((each) => each.includes(square)));
  return { rows, row, at: Math.max(0, (rows[row] || []).indexOf(square)) };
}
function rove(square) {
  if (!square) return;
  for (const other of $("heat").querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  square.tabIndex = 0;
}
$("heat").addEventListener("keydown", (event) => {
  const { rows, row, at } = place(event.target);
  const last = rows[row]?.length - 1;
  const to = { ArrowLeft: [row, at - 1], ArrowRight: [row, at + 1], ArrowUp: [row - 1, at], ArrowDown: [row + 1, at], Home: [row, 0], End: [row, last], PageUp: [0, at], PageDown: [rows.length - 1, at] }[event.key];
  if (!to || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const square = rows[to[0]]?.[to[1]];
  if (!square) return;
  rove(square);
  square.focus();
});
function square(node, model, view) {
  const cell = node.cells[model];
  const text = `${node.name}, ${model}\n${cell.running} of ${cell.placed} run; EPERM ${cell.eperm}, ENOMEM ${cell.enomem}, OOM kills ${cell.oom_kills}\ncharged ${bytes(cell.charged_bytes)} of ${bytes(node.ram_bytes)}`;
  const look = view.share ? { class: "square", style: shade(view.hue, view.share(cell, node)) } : { class: `square s-${cell.status}` };
  return el("button", { type: "button", role: "gridcell", tabindex: -1, ...look, "aria-label": text.replaceAll("\n", ", "),
    ...tip(text), onclick: (event) => showCell(node, model, event.currentTarget) }, view.text ? view.text(cell, node) : GLYPH[cell.status]);
}
function showCell(node, model, button) {
  for (const other of document.querySelectorAll(".square.on")) other.classList.remove("on");
  button.classList.add("on");
  rove(button);
  const cell = node.cells[model];
  const facts = [["charged", bytes(cell.charged_bytes)], ["estimated", bytes(cell.estimate_bytes)], ["really used by BPF", bytes(cell.taken_bytes)],
    ["memory in use", `${bytes(cell.used_bytes)} of ${bytes(node.ram_bytes)}`]];
  const head = ["replica", "application", "phase", "starts", "OOM kills", "peak usage", "memory.max", "last failure"];
  const rows = (cell.replicas || []).map(({ name, application: app, phase, starts, oom_kills: kills, peak_bytes: peak, limit_bytes: limit, failure }) => el("tr", {},
    el("th", {}, name), el("td", { class: "text" }, app), el("td", { class: "text" }, phase), el("td", {}, count(starts)),
    el("td", { class: cellClass(kills, true) }, count(kills)), el("td", {}, bytes(peak)), el("td", {}, limit === null ? "max" : bytes(limit)),
    el("td", { class: "text" }, failure || "–")));
  const panel = $("cell");
  panel.replaceChildren(
    el("h3", {}, `${node.name} under ${model}`),
    el("dl", { class: "kv" }, ...facts.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
    rows.length ? el("div", { class: "scroll" }, el("table", { class: "numbers" },
      el("thead", {}, el("tr", {}, ...head.map((h, i) => el("th", { class: [1, 2, 7].includes(i) ? "text" : "" }, h)))), el("tbody", {}, ...rows)))
      : el("p", { class: "empty" }, "Replicas are listed for fleets of up to 400 nodes; the CSV has them all."));
  panel.hidden = false;
}

// -- divergences
function pillOf(errno) {
  const key = { EPERM: "eperm", ENOMEM: "enomem", E2BIG: "e2big", SIGKILL: "oom", ok: "ok" }[errno] || "failed";
  return el("span", { class: `pill s-${key}` }, errno === "SIGKILL" ? "OOM-killed" : errno);
}
function drawDivergences() {
  if (!DATA.causes.length) {
    $("causes").replaceChildren(el("p", { class: "empty" }, MODELS.length > 1 ? "The models answered every call alike." : "One model alone has nothing to differ from."));
    return;
  }
  $("causes").replaceChildren(...DATA.causes.map((cause, index) => el("details", { class: "cause", open: index === 0 ? "" : false },
    el("summary", {}, el("span", { class: "many" }, count(cause.count), el("small", {}, cause.count === 1 ? "replica" : "replicas")),
      el("span", {}, cause.cause, el("div", { class: "who" }, `${cause.workloads.join(", ")} on ${plural(cause.nodes, "node")}`))),
    firstOf(cause), listOf(cause))));
}
function firstOf(cause) {
  const d = cause.first;
  const where = `First on ${d.node}: ${d.replica} (${d.application}), ${d.step === 0 ? "start" : "step " + d.step}, ${d.call} ${d.object}`;
  // Models that answered alike, with the same counters, share a line.
  const alike = new Map();
  for (const v of d.verdicts) {
    const key = JSON.stringify([v.errno, v.reason, v.bars.map((bar) => [bar.what, bytes(bar.used_bytes), bar.limit_bytes])]);
    alike.set(key, [...(alike.get(key) || []), v]);
  }
  const rows = [...alike.values()].map(([v, ...others]) => el("tr", {}, el("th", {}, [v, ...others].map((o) => o.model).join(", ")), el("td", {}, pillOf(v.errno)), el("td", {}, ...v.bars.map(meter)),
    el("td", { class: "why" }, [v.reason, v.detail].filter(Boolean).join(": ").replaceAll("_", "_\u200b"))));
  return el("div", {}, el("p", { class: "note" }, where), el("div", { class: "scroll" }, el("table", { class: "sides" },
    el("thead", {}, el("tr", {}, ...["model", "answer", "counter and limit", "reason"].map((h) => el("th", {}, h)))), el("tbody", {}, ...rows))));
}
function meter({ what: name, used_bytes: value, limit_bytes: limit }) {
  const share = limit ? Math.min(1, value / limit) : 0;
  return el("div", { class: "meter" }, el("span", { class: "of" }, name),
    el("div", { class: "track" }, el("div", { class: `fill${share > 0.985 ? " full" : ""}`, style: `width:${(share * 100).toFixed(1)}%` })),
    el("small", {}, limit === null ? `${bytes(value)}, no limit` : `${bytes(value)} of ${bytes(limit)}`));
}
function listOf(cause) {
  if (cause.list.length < 2) return null;
  const head = ["node", "replica", "step", "call", "object", ...MODELS].map((h) => el("th", { class: "text" }, h));
  const rows = cause.list.map(({ node, replica, step, call, object, errnos }) => el("tr", {}, el("th", {}, node), el("td", { class: "text" }, replica),
    el("td", { class: "text" }, step === 0 ? "start" : String(step)), el("td", { class: "text" }, call), el("td", { class: "text" }, object),
    ...MODELS.map((m) => el("td", { class: "text" }, pillOf(errnos[m])))));
  const more = cause.count > cause.list.length ? `The first ${cause.list.length} of ${cause.count}` : `All ${cause.count}`;
  return el("details", {}, el("summary", {}, more), el("div", { class: "scroll" }, el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows))));
}

// -- charge over time
const CLASS_NAMES = { locked: "locked pages (rlimit)", slab: "slab", slab_reclaimable: "slab, reclaimable", percpu: "per-CPU", vmalloc: "vmalloc", pages: "pages" };
function drawTime(by) {
  const names = [...new Set(MODELS.flatMap((m) => Object.keys(DATA.time[m][by])))];
  const size = Object.fromEntries(names.map((n) => [n, Math.max(...MODELS.map((m) => Math.max(0, ...(DATA.time[m][by][n] || [0]))))]));
  names.sort((a, b) => size[b] - size[a]);
  const series = foldSmall(by, names);
  const steps = DATA.meta.steps + 1;
  const total = (m, i) => series.reduce((sum, s) => sum + s.values[m][i], 0);
  const top = niceTop(Math.max(1, ...MODELS.map((m) => Math.max(...Array.from({ length: steps }, (_, i) => total(m, i))))));
  const legend = el("div", { class: "legend", style: "grid-column: 1 / -1" }, ...series.map((s, i) => el("span", {}, swatch(s.colour, i), s.label)));
  $("time-charts").replaceChildren(legend, ...MODELS.map((m) => el("div", { class: "chart" },
    el("h3", {}, m, el("small", {}, `${bytes(total(m, steps - 1))} at the end`)), stacked(m, series, steps, top))));
  table("time-table", ["", ...MODELS].map((h) => el("th", {}, h || "time")), Array.from({ length: steps }, (_, i) => el("tr", {},
    el("th", {}, i === 0 ? "after the start" : `${seconds(i * DATA.meta.step_s)} s`), ...MODELS.map((m) => el("td", {}, bytes(total(m, i)))))));
}
// The largest series by name, the rest as one: more than ten colours tell nothing apart.
function foldSmall(by, names) {
  const steps = DATA.meta.steps + 1;
  const values = (members) => Object.fromEntries(MODELS.map((m) => [m, Array.from({ length: steps }, (_, i) =>
    members.reduce((sum, n) => sum + ((DATA.time[m][by][n] || [])[i] || 0), 0))]));
  const kept = names.length > SHOWN_SERIES + 1 ? names.slice(0, SHOWN_SERIES) : names;
  const series = kept.map((n, i) => ({ label: by === "class" ? CLASS_NAMES[n] || n : n, colour: colour(i), values: values([n]) }));
  const rest = names.slice(kept.length);
  if (rest.length) series.push({ label: `${rest.length} smaller ones`, colour: "var(--cx)", values: values(rest) });
  return series;
}
function stacked(model, series, steps, top) {
  const W = 360, H = 190, L = 52, R = 8, T = 8, B = 22;
  const x = (i) => L + (steps > 1 ? (i / (steps - 1)) * (W - L - R) : (W - L - R) / 2);
  const y = (v) => T + (1 - v / top) * (H - T - B);
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Charged bytes over time under ${model}` });
  for (let k = 0; k <= 4; k += 1) {
    const v = (top * k) / 4;
    root.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }),
      svg("text", { x: L - 5, y: y(v) + 4, "text-anchor": "end" }, v === 0 ? "0" : bytes(v)));
  }
  const base = Array(steps).fill(0);
  for (const [index, one] of series.entries()) {
    const values = one.values[model];
    const lower = base.slice();
    values.forEach((v, i) => { base[i] += v; });
    if (!values.some((v) => v > 0)) continue;
    const up = base.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`);
    const down = lower.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).reverse();
    const points = up.concat(down).join(" ");
    root.append(svg("polygon", { points, fill: one.colour, stroke: "var(--panel)", "stroke-width": .6 }), svg("polygon", { points, fill: texture(index) }));
  }
  const step = Math.max(1, Math.round((steps - 1) / 4));
  for (let i = 0; i < steps; i += step) {
    const last = i + step >= steps && steps > 1;
    root.append(svg("text", { x: x(i), y: H - 6, "text-anchor": last ? "end" : "middle" }, `${Number((i * DATA.meta.step_s).toFixed(1))} s`));
  }
  const width = steps > 1 ? (W - L - R) / (steps - 1) : W;
  for (let i = 0; i < steps; i += 1) {
    const parts = series.map((s) => [s.label, s.values[model][i]]).filter(([, v]) => v > 0).sort((a, b) => b[1] - a[1]);
    const lines = parts.slice(0, 8).map(([n, v]) => `${n}: ${bytes(v)}`);
    const text = `${model}, ${i === 0 ? "after the start" : "step " + i}: ${bytes(base[i])}\n${lines.join("\n")}`;
    root.append(svg("rect", { class: "hover", x: x(i) - width / 2, y: T, width, height: H - T - B, ...tip(text) }));
  }
  return root;
}

// -- applications
function drawApplications(model) {
  const rows = DATA.applications.filter((a) => a.models[model]).map((a) => {
    const m = a.models[model];
    const per = (v) => (m.running ? v / m.running : 0);
    return { name: a.name, ...m, estimate: per(m.estimate_bytes), charged: per(m.charged_bytes) };
  }).sort((a, b) => Math.max(b.estimate, b.charged) - Math.max(a.estimate, a.charged));
  const W = 900, L = 190, R = 90, rowHeight = 24, T = 20, H = T + rows.length * rowHeight + 8;
  const values = rows.flatMap((r) => [r.estimate, r.charged]).filter((v) => v > 0);
  const low = Math.max(12, Math.floor(Math.log2(Math.min(...values, 1 << 20)))), high = Math.ceil(Math.log2(Math.max(...values, 1 << 21)));
  const x = (v) => L + (Math.max(0, Math.log2(Math.max(v, 1)) - low) / (high - low)) * (W - L - R);
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Estimate and charge per application under ${model}` });
  const every = Math.max(1, Math.ceil((high - low) / 9));
  for (let p = low; p <= high; p += every) {
    root.append(svg("line", { class: "grid", x1: x(2 ** p), x2: x(2 ** p), y1: T - 4, y2: H - 6 }),
      svg("text", { x: x(2 ** p), y: 10, "text-anchor": "middle" }, bytes(2 ** p)));
  }
  rows.forEach((r, i) => {
    const y = T + i * rowHeight + rowHeight / 2;
    const name = svg("text", { class: "name", x: L - 10, y: y + 4, "text-anchor": "end" }, r.name);
    if (!r.running) {
      root.append(name, svg("text", { x: L + 4, y: y + 4 }, "not running at the end"));
      return;
    }
    const ratio = r.charged > 0 && r.estimate > 0 ? r.charged / r.estimate : 0;
    const text = `${r.name} under ${model}, per replica\nestimated ${bytes(r.estimate)}\ncharged ${bytes(r.charged)}`;
    root.append(name,
      ...(r.charged && r.estimate ? [svg("line", { x1: x(r.estimate), x2: x(r.charged), y1: y, y2: y, stroke: "var(--line)", "stroke-width": 5, "stroke-linecap": "round" })] : []),
      // Nothing has no place on a logarithmic scale.
      ...(r.estimate ? [svg("circle", { cx: x(r.estimate), cy: y, r: 5.5, fill: "var(--panel)", stroke: "var(--c0)", "stroke-width": 2 })] : []),
      ...(r.charged ? [svg("circle", { cx: x(r.charged), cy: y, r: 5, fill: "var(--c1)" })] : []),
      svg("text", { x: W - R + 12, y: y + 4 }, ratio ? `${(ratio * 100).toFixed(ratio < 0.1 ? 1 : 0)} %` : "nothing"),
      svg("rect", { class: "hover", x: 0, y: y - rowHeight / 2, width: W, height: rowHeight, ...tip(text) }));
  });
  $("app-chart").replaceChildren(el("div", { class: "chart" },
    el("div", { class: "legend" }, el("span", {}, el("i", { class: "swatch", style: "border:2px solid var(--c0)" }), "estimated (rlimit era)"),
      el("span", {}, el("i", { class: "swatch", style: "background:var(--c1)" }), `charged under ${model}`), el("span", {}, "right: charge as a share of the estimate")), root));
  table("app-table", ["application", "placed", "running", "OOM kills", "estimate per replica", "charge per replica", "highest cgroup usage"].map((h) => el("th", {}, h)),
    rows.map((r) => el("tr", {}, el("th", {}, r.name), el("td", {}, count(r.placed)), el("td", {}, count(r.running)), el("td", { class: cellClass(r.oom_kills, true) }, count(r.oom_kills)),
      el("td", {}, r.running ? bytes(r.estimate) : "–"), el("td", {}, r.running ? bytes(r.charged) : "–"), el("td", {}, bytes(r.peak_bytes)))));
}

// -- OOM kills
function drawKills() {
  if (!DATA.kills.length) {
    $("kill-list").replaceChildren(el("p", { class: "empty" }, "No process was killed."));
    return;
  }
  const head = ["model", "node", "time", "victim", "at the limit of", "what the memory is made of", "candidates: pid, name, badness in pages"];
  $("kill-list").replaceChildren(...DATA.kills.map((group, index) => {
    const models = MODELS.filter((m) => group.models[m]);
    const alike = new Map();
    for (const m of models) {
      const key = `${count(group.models[m].count)} on ${plural(group.models[m].nodes, "node")}, first at ${seconds(group.models[m].first_s)} s`;
      alike.set(key, [...(alike.get(key) || []), m]);
    }
    const who = [...alike].map(([key, names]) => `${names.join(", ")}: ${key}`).join("; ");
    const shown = models.flatMap((m) => group.models[m].list.map((kill) => killRow(m, kill)));
    return el("details", { class: "cause", open: index === 0 ? "" : false },
      el("summary", {}, el("span", { class: "many" }, count(group.count), el("small", {}, group.count === 1 ? "kill" : "kills")),
        el("span", {}, group.workload, el("div", { class: "who" }, who))),
      shown.length < group.count ? el("p", { class: "note" }, `${shown.length} of ${count(group.count)}; the JSON has them all.`) : null,
      el("div", { class: "scroll tall" }, el("table", { class: "numbers" },
        el("thead", {}, el("tr", {}, ...head.map((h, i) => el("th", { class: i === 2 ? "" : "text" }, h)))), el("tbody", {}, ...shown))));
  }));
}
function killRow(model, kill) {
  const f = kill.fields;
  const objects = String(f.bpf_objects || "").split("; ").filter(Boolean).slice(0, 4).map((text) => {
    const cut = text.lastIndexOf(" ");
    return `${text.slice(0, cut).replace(/^(map|prog) \d+ /, "")} ${bytes(Number(text.slice(cut + 1)))}`;
  });
  const parts = [`limit ${bytes(Number(f.limit_bytes || 0))}`, `anonymous ${bytes(Number(f.group_anon_bytes || 0))}`, `BPF ${bytes(Number(f.bpf_bytes || 0))}${objects.length ? ` (${objects.join(", ")}${objects.length === 4 ? ", …" : ""})` : ""}`];
  return el("tr", {}, el("th", {}, model), el("td", { class: "text nowrap" }, kill.node), el("td", {}, `${seconds(kill.time_s)} s`), el("td", { class: "text nowrap" }, `${f.comm || "?"}, pid ${f.pid}`),
    el("td", { class: "text" }, f.limited_cgroup || "the node"), el("td", { class: "text" }, parts.join("; ")), el("td", { class: "text" }, String(f.candidates || "–")));
}

// -- limits
const LIMIT_COLOURS = { heap: "var(--c0)", maps: "var(--c1)", elements: "var(--c2)", loader: "var(--c4)", verifier: "var(--c6)", "CPU stocks": "var(--c7)", "re-creation": "var(--c5)" };
function judged(row) {
  if (row.now === null) return ["ok", "no limit"];
  if (row.least === null) return ["oom", "none passes"];
  if (row.now < row.least) return ["oom", "too low"];
  return row.now < row.recommended ? ["refused", "tight"] : ["good", "enough"];
}
function named(row) {
  const [workload, application] = row.application.split(" (");
  return application ? [workload, el("span", { class: "kind" }, application.slice(0, -1))] : [workload];
}
function drawLimits(shape) {
  const limits = DATA.limits;
  if (!limits) return;
  const rows = limits.rows.filter((r) => r.shape === shape);
  $("limits-note").textContent = limits.note;
  $("limit-chart").replaceChildren(el("div", { class: "chart" },
    el("div", { class: "legend" }, ...limits.parts.map((part, i) => el("span", {}, swatch(LIMIT_COLOURS[part], i), part)),
      el("span", {}, el("i", { class: "swatch s-ok" }), `${limits.head_room_percent} % head room`), el("span", {}, "▼ now"), el("span", {}, "│ least passing")), limitBars(rows, limits)));
  table("limit-table", ["application", "", "now", "least passing", "recommended", ...limits.parts].map((h) => el("th", {}, h)), rows.map((r) => {
    const [key, word] = judged(r);
    return el("tr", {}, el("th", {}, ...named(r)), el("td", {}, el("span", { class: `pill s-${key}` }, word)), el("td", {}, r.now === null ? "max" : bytes(r.now)),
      el("td", {}, r.least === null ? "none found" : bytes(r.least)), el("td", { class: "bad" }, bytes(r.recommended)), ...r.parts.map((v) => el("td", { class: cellClass(v, false) }, v ? bytes(v) : "0")));
  }));
}
// Every bar is one recommendation; where today's limit stands left of the least passing one, the application fails.
function limitBars(rows, limits) {
  const W = 900, L = 130, R = 90, rowHeight = 26, T = 22, H = T + rows.length * rowHeight + 6, SPAN = 1.5;
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Recommended limits, what they are made of, and today's" });
  const x = (share) => L + Math.min(share, SPAN) / SPAN * (W - L - R);
  for (const share of [0, 0.5, 1, 1.5]) root.append(svg("line", { class: "grid", x1: x(share), x2: x(share), y1: T - 4, y2: H }),
    svg("text", { x: x(share), y: 11, "text-anchor": "middle" }, share === 1 ? "recommended" : `${share * 100} %`));
  rows.forEach((r, i) => {
    const y = T + i * rowHeight, of = (v) => v / r.recommended;
    root.append(svg("text", { class: "name", x: L - 10, y: y + 17, "text-anchor": "end" }, r.application.split(" (")[0]));
    let sum = 0;
    r.parts.forEach((v, part) => {
      const bar = { x: x(of(sum)), y: y + 7, width: Math.max(0.5, x(of(sum + v)) - x(of(sum))), height: 13 };
      if (v > 0) root.append(svg("rect", { ...bar, fill: LIMIT_COLOURS[limits.parts[part]] }), svg("rect", { ...bar, fill: texture(part) }));
      sum += v;
    });
    root.append(svg("rect", { x: x(of(sum)), y: y + 7, width: Math.max(0, x(1) - x(of(sum))), height: 13, fill: "var(--ok)" }));
    if (r.least !== null) root.append(svg("line", { class: "mark", x1: x(of(r.least)), x2: x(of(r.least)), y1: y + 3, y2: y + 24 }));
    if (r.now !== null) {
      const at = x(of(r.now)), far = of(r.now) > SPAN;
      root.append(svg("path", { d: far ? `M${at - 9} ${y + 8} L${at + 2} ${y + 13.5} L${at - 9} ${y + 19} Z` : `M${at - 5} ${y} L${at + 5} ${y} L${at} ${y + 8} Z`, fill: "var(--ink)" }));
    }
    const [, word] = judged(r);
    root.append(svg("text", { x: W - R + 14, y: y + 17 }, bytes(r.recommended)),
      svg("rect", { class: "hover", x: 0, y, width: W, height: rowHeight, ...tip(`${r.application}: ${word}\nnow ${r.now === null ? "no limit" : bytes(r.now)}\nleast passing ${r.least === null ? "none found" : bytes(r.least)}\nrecommended ${bytes(r.recommended)}\n${limits.parts.map((part, n) => `${part} ${bytes(r.parts[n])}`).join(", ")}`) }));
  });
  return root;
}

// -- CPUs
function drawCpus(model) {
  const cpus = DATA.cpus;
  if (!cpus) return;
  const lines = cpus.lines.filter((l) => l.model === model);
  const W = 900, H = 380, L = 70, R = 190, T = 12, B = 30;
  const values = lines.flatMap((l) => l.bytes).filter((v) => v > 0);
  const low = Math.floor(Math.log2(Math.max(4096, Math.min(...values)))), high = Math.ceil(Math.log2(Math.max(...values, 1 << 21)));
  const x = (c) => L + (Math.log2(c / cpus.counts[0]) / Math.log2(cpus.counts.at(-1) / cpus.counts[0])) * (W - L - R);
  const y = (v) => T + (1 - (Math.log2(Math.max(v, 2 ** low)) - low) / (high - low)) * (H - T - B);
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Charge by number of CPUs under ${model}` });
  const every = Math.max(1, Math.ceil((high - low) / 8));
  for (let p = low; p <= high; p += every) root.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: y(2 ** p), y2: y(2 ** p) }), svg("text", { x: L - 6, y: y(2 ** p) + 4, "text-anchor": "end" }, bytes(2 ** p)));
  for (const c of cpus.counts) root.append(svg("text", { x: x(c), y: H - 10, "text-anchor": "middle" }, `${c}`));
  root.append(svg("text", { x: L + (W - L - R) / 2, y: H + 6, "text-anchor": "middle" }, "possible CPUs of the host"));
  const ends = [];
  const order = lines.filter((l) => l.bytes.some((v) => v !== null)).sort((a, b) => b.bytes.at(-1) - a.bytes.at(-1));
  order.forEach((line, index) => {
    const points = line.bytes.map((v, i) => [cpus.counts[i], v]).filter(([, v]) => v !== null);
    root.append(svg("polyline", { points: points.map(([c, v]) => `${x(c).toFixed(1)},${y(v).toFixed(1)}`).join(" "), fill: "none", stroke: colour(index), "stroke-width": 2, "stroke-linejoin": "round", "stroke-dasharray": DASHES[index % DASHES.length] }));
    for (const [c, v] of points) root.append(point(index, x(c), y(v), tip(`${line.application} under ${model}\n${plural(c, "CPU")}: ${bytes(v)}`)));
    ends.push([line.application, y(points.at(-1)[1]), index]);
  });
  const refused = lines.filter((l) => l.bytes.every((v) => v === null)).map((l) => l.application);
  const places = spread(ends.sort((a, b) => a[1] - b[1]).map((end) => end[1]), 13, T, H - B);
  ends.forEach(([name, at, index], i) => {
    root.append(svg("line", { x1: W - R + 5, x2: W - R + 14, y1: at, y2: places[i], stroke: colour(index) }), point(index, W - R + 20, places[i], {}), svg("text", { class: "name", x: W - R + 29, y: places[i] + 4 }, name));
  });
  root.setAttribute("viewBox", `0 0 ${W} ${H + 12}`);
  table("cpu-table", ["application", ...cpus.counts.map((c) => plural(c, "CPU"))].map((h) => el("th", {}, h)), order.map((line) => el("tr", {},
    el("th", {}, line.application), ...line.bytes.map((v) => el("td", {}, v === null ? "refused" : bytes(v))))));
  $("cpu-chart").replaceChildren(el("div", { class: "chart" }, root, refused.length ? el("p", { class: "note" }, `Refused on every host: ${refused.join(", ")}.`) : ""));
}

// Places at least a gap apart and as near to the wished ones as that allows: neighbours that collide share the shift.
function spread(wished, gap, low, high) {
  const groups = [];
  for (const at of wished) {
    groups.push({ sum: at, n: 1, centre: at });
    for (let last = groups.length - 1; last > 0; last -= 1) {
      const [a, b] = [groups[last - 1], groups[last]];
      if (b.centre - a.centre >= (a.n + b.n) / 2 * gap) break;
      const n = a.n + b.n, sum = a.sum + b.sum, half = (n - 1) / 2 * gap;
      groups.splice(last - 1, 2, { sum, n, centre: Math.max(low + half, Math.min(high - half, sum / n)) });
    }
  }
  return groups.flatMap((g) => Array.from({ length: g.n }, (_, i) => g.centre + (i - (g.n - 1) / 2) * gap));
}

// -- method
function drawMethod() {
  $("method-text").replaceChildren(el("dl", { class: "kv" }, ...DATA.method.flatMap(([term, text]) => [el("dt", {}, term), el("dd", {}, text)])));
  if (DATA.unplaced.length) $("method-text").append(el("p", { class: "note" }, `Not placed: ${DATA.unplaced.map(([n, why]) => `${n} (${why})`).join("; ")}`));
}

// -- what the answer rests on, and how to come to it again
function drawBasis() {
  const kernels = DATA.meta.models.map((m) => [m.name, `${m.kind} model, ${m.known_by}`]);
  const assumed = [...(DATA.origin?.assumed || []), "no bytecode runs: a program is its size, its maps and what it does to them", "placement by memory requests, the same under every kernel"];
  $("basis").replaceChildren(
    el("h2", { class: "small" }, "What this rests on"),
    el("dl", { class: "kv" }, ...kernels.flatMap(([term, text]) => [el("dt", {}, term), el("dd", {}, text)]), el("dt", {}, "assumed"), el("dd", {}, `${assumed.join("; ")}. `, el("a", { href: "#method" }, "Method"), ", ", el("a", { href: "#repeat" }, "how to repeat it"), ".")));
}
function save(input) {
  const url = URL.createObjectURL(new Blob([input.text], { type: "application/octet-stream" }));
  el("a", { href: url, download: input.name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 0);
}
function drawRepeat() {
  const origin = DATA.origin;
  if (!origin) { $("repeat").hidden = true; return; }
  const copy = el("button", { type: "button", class: "plain", onclick: async () => { await navigator.clipboard.writeText(origin.command); copy.textContent = "Copied"; } }, "Copy");
  const facts = [["command", [el("code", { id: "repeat-command" }, origin.command), " ", copy]], ["version", [`bpfleet ${DATA.meta.version}`]], ["date", [origin.date]], ["seed", [String(DATA.meta.seed)]]];
  $("repeat-text").replaceChildren(el("dl", { class: "kv" }, ...facts.flatMap(([term, parts]) => [el("dt", {}, term), el("dd", {}, ...parts)])));
  if (!origin.inputs.length) { $("repeat-text").append(el("p", { class: "note" }, "No file was read: scenario and kernels are built in.")); return; }
  $("repeat-text").append(el("div", { class: "scroll" }, el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, ...["file that was read", "size", "SHA-256", "in this page"].map((h, i) => el("th", { class: i > 1 ? "text" : "" }, h)))),
    el("tbody", {}, ...origin.inputs.map((input) => el("tr", {}, el("th", {}, input.path), el("td", {}, bytes(input.bytes)), el("td", { class: "text" }, el("code", {}, input.sha256)),
      el("td", { class: "text" }, input.text === null ? "no, too large" : el("button", { type: "button", class: "plain", onclick: () => save(input) }, `Save ${input.name}`))))))));
}

// -- what is wider than its place can be scrolled, by keyboard too
function reachScrolled() {
  for (const box of document.querySelectorAll(".scroll, .chart")) {
    const scrolls = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
    const heading = box.closest("section")?.querySelector("h1, h2")?.textContent || "";
    for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", `${heading}, scrolls`]]) scrolls ? box.setAttribute(name, value) : box.removeAttribute(name);
  }
}

function drawFidelity() {
  const sum = (rows, key) => rows.reduce((total, row) => total + row[key], 0);
  const line = (name, rows) => el("tr", {}, el("th", {}, name), el("td", {}, count(sum(rows, "cases"))), el("td", {}, count(sum(rows, "exact"))),
    el("td", { class: cellClass(sum(rows, "mismatches"), true) }, count(sum(rows, "mismatches"))), el("td", { class: cellClass(sum(rows, "unsupported"), true) }, count(sum(rows, "unsupported"))));
  const head = (first) => [first, "cases", "exact", "differing", "not supported"].map((h) => el("th", {}, h));
  const kernels = [...new Set(DATA.fidelity.map((row) => row.kernel))].sort((a, b) => (a === "all") - (b === "all") || a.localeCompare(b, "en", { numeric: true }));
  const missing = DATA.unmeasured.length ? ` Of ${DATA.unmeasured.join(", ")} there are no recordings: ${DATA.unmeasured.length === 1 ? "it follows" : "they follow"} the kernel's source.` : "";
  $("fidelity-note").textContent = `Calls recorded on real kernels and repeated on the emulator: ${count(sum(DATA.fidelity, "exact"))} of ${count(sum(DATA.fidelity, "cases"))} answered exactly, by errno, memlock line and charge.${missing}`;
  table("fidelity", head("kernel"), kernels.map((kernel) => line(kernel === "all" ? "several at once" : kernel, DATA.fidelity.filter((row) => row.kernel === kernel))));
  table("recordings", head("recording"), DATA.fidelity.map((row) => line(row.file, [row])));
}

// -- theme
function applyTheme(theme) { document.documentElement.dataset.theme = theme; }
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
let chosen = false;
applyTheme(prefersDark.matches ? "dark" : "light");
prefersDark.addEventListener("change", () => { if (!chosen) applyTheme(prefersDark.matches ? "dark" : "light"); });
$("theme").addEventListener("click", () => { chosen = true; applyTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); });
// On paper everything is open, and dark ink is on light ground.
let before = null;
addEventListener("beforeprint", () => {
  before = [document.documentElement.dataset.theme, [...document.querySelectorAll("details:not([open])")]];
  applyTheme("light");
  for (const box of before[1]) box.open = true;
});
addEventListener("afterprint", () => {
  if (!before) return;
  applyTheme(before[0]);
  for (const box of before[1]) box.open = false;
  before = null;
});

const options = MODELS.map((m) => [m, m]);
drawTextures();
drawBasis();
drawSummary();
drawUpgrade();
segmented("heat-by", Object.entries(VIEWS).map(([key, view]) => [key, view.label]), "outcome", drawFleet);
drawFleet("outcome");
drawDivergences();
segmented("time-by", [["workload", "by workload"], ["class", "by class"]], "workload", drawTime);
drawTime("workload");
const charges = DATA.meta.models.filter((m) => m.kind === "memcg").map((m) => m.name);
const charging = charges.filter((m) => !m.includes(":")).at(-1) || charges.at(-1) || MODELS.at(-1);
const sizes = DATA.nodes.reduce((sum, n) => sum.set(n.group, (sum.get(n.group) || 0) + 1), new Map());
const common = [...sizes].sort((a, b) => b[1] - a[1]).map(([group]) => group)[0];
segmented("app-model", options, charging, drawApplications);
drawApplications(charging);
drawKills();
if (DATA.limits) {
  const shape = DATA.limits.shapes.find((s) => s.startsWith(`${common}: `)) || DATA.limits.shapes[0];
  segmented("limit-shape", DATA.limits.shapes.map((s) => [s, s]), shape, drawLimits);
  drawLimits(shape);
} else $("limits").hidden = true;
if (DATA.cpus) {
  segmented("cpu-model", DATA.cpus.models.map((m) => [m, m]), charging, drawCpus);
  drawCpus(charging);
} else $("cpus").hidden = true;
drawMethod();
drawFidelity();
drawRepeat();
const watched = new ResizeObserver(reachScrolled);
for (const box of document.querySelectorAll(".scroll, .scroll > table, main")) watched.observe(box);
addEventListener("click", () => requestAnimationFrame(reachScrolled));
addEventListener("toggle", reachScrolled, true);
reachScrolled();
for (const link of document.querySelectorAll("nav a")) link.hidden = document.querySelector(link.hash).hidden;
document.documentElement.dataset.ready = "true";
