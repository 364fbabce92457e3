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
const cellClass = (value, bad) => (value === 0 ? "zero" : bad ? "bad" : "");
const colour = (index) => (index < SERIES ? `var(--c${index})` : "var(--cx)");
function niceTop(value) {
  if (value <= 0) return 1;
  const power = 2 ** Math.floor(Math.log2(value));
  for (const step of [1, 1.25, 1.5, 1.75, 2]) if (power * step >= value) return power * step;
  return power * 2;
}

// -- summary
const BAD = new Set(["crash-looping", "EPERM", "ENOMEM", "E2BIG", "OOM kills"]);
function modelHead(m) {
  return el("th", {}, m.name, el("span", { class: "kind" }, m.kind));
}
function drawSummary() {
  const meta = DATA.meta;
  $("lead").textContent = `${plural(meta.nodes, "node")}, ${plural(meta.replicas, "replica")}, ` +
    `${plural(meta.steps, "step")} of ${meta.step_s} s, seed ${meta.seed}. The same operations under ${plural(MODELS.length, "model")}.`;
  drawFates();
  drawIntervals();
  $("findings").replaceChildren(...DATA.findings.map((text) => el("li", {}, text)));
  table("outcomes", [el("th", {}, ""), ...meta.models.map(modelHead)], DATA.rows.map((row) =>
    el("tr", {}, el("th", {}, row.label), ...row.values.map((value) =>
      el("td", { class: cellClass(value, BAD.has(row.label)) }, row.bytes ? bytes(value) : count(value))))));
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
  const shown = (row, v) => (row.bytes ? bytes(v) : Number(v.toFixed(1)).toLocaleString("en"));
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
      ...tip(`${model}: ${plural(counts[fate], "replica")} of ${count(total)}, ${FATE_WORDS[fate] || fate}`) }, counts[fate] / total > 0.03 ? count(counts[fate]) : ""));
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
  const arrow = ([a, b]) => (a === b ? a : `${a} → ${b}`);
  const badge = (line) => el("span", { class: `pill s-${line.change === "unchanged" ? "ok" : line.change === "stops failing" ? "good" : FATES[line.after] || "failed"}` }, line.change);
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
function drawFleet() {
  $("legend").replaceChildren(...STATUS.map(([key, text, glyph]) =>
    el("span", {}, el("i", { class: `swatch s-${key}` }), glyph ? `${text} (${glyph})` : text)));
  const groups = [...new Set(DATA.nodes.map((n) => n.group))];
  const rows = MODELS.map((model) => el("div", { class: `heat-row ${squareSize()}` },
    el("div", { class: "label" }, model),
    el("div", { class: "heat-groups" }, ...groups.map((group) => el("div", { style: "min-width:110px" },
      el("div", { class: "heat-group" }, ...DATA.nodes.filter((n) => n.group === group).map((n) => square(n, model))))))));
  const pitch = { "": 29, small: 15, tiny: 9 }[squareSize()];
  const names = el("div", { class: "heat-row group-names" }, el("div", {}, ""), el("div", { class: "heat-groups" }, ...groups.map((group) => {
    const members = DATA.nodes.filter((n) => n.group === group);
    const width = Math.max(110, members.length * pitch - 3);
    return el("div", { style: `width:${width}px` }, `${group}: ${plural(members[0].cpus, "CPU")}, ${bytes(members[0].ram)}`);
  })));
  $("heat").replaceChildren(names, ...rows);
}
function square(node, model) {
  const cell = node.cells[model];
  const text = `${node.name}, ${model}\n${cell.running} of ${cell.placed} run; EPERM ${cell.eperm}, ENOMEM ${cell.enomem}, OOM kills ${cell.kills}\ncharged ${bytes(cell.charged)} of ${bytes(node.ram)}`;
  return el("button", { type: "button", class: `square s-${cell.status}`, "aria-label": text.replaceAll("\n", ", "),
    ...tip(text), onclick: (event) => showCell(node, model, event.currentTarget) }, GLYPH[cell.status]);
}
function showCell(node, model, button) {
  for (const other of document.querySelectorAll(".square.on")) other.classList.remove("on");
  button.classList.add("on");
  const cell = node.cells[model];
  const facts = [["charged", bytes(cell.charged)], ["estimated", bytes(cell.estimate)], ["really used by BPF", bytes(cell.taken)],
    ["memory in use", `${bytes(cell.used)} of ${bytes(node.ram)}`]];
  const head = ["replica", "application", "phase", "starts", "OOM kills", "peak usage", "memory.max", "last failure"];
  const rows = (cell.replicas || []).map(([name, app, phase, starts, kills, peak, limit, failure]) => el("tr", {},
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
    $("causes").replaceChildren(el("p", { class: "empty" }, "The models answered every call alike."));
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
  return el("div", {}, el("p", { class: "note" }, where), el("div", { class: "sides" }, ...d.verdicts.map((v) => el("div", { class: "side" },
    el("b", {}, v.model, " ", pillOf(v.errno)), v.reason ? el("div", {}, v.reason) : null, v.detail ? el("div", {}, v.detail) : null,
    el("div", { class: "c" }, v.counters)))));
}
function listOf(cause) {
  if (cause.list.length < 2) return null;
  const head = ["node", "replica", "step", "call", "object", ...MODELS].map((h) => el("th", { class: "text" }, h));
  const rows = cause.list.map(([node, replica, step, call, object, errnos]) => el("tr", {}, el("th", {}, node), el("td", { class: "text" }, replica),
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
  const legend = el("div", { class: "legend", style: "grid-column: 1 / -1" }, ...series.map((s) =>
    el("span", {}, el("i", { class: "swatch", style: `background:${s.colour}` }), s.label)));
  $("time-charts").replaceChildren(legend, ...MODELS.map((m) => el("div", { class: "chart" }, el("h3", {}, m), stacked(m, series, steps, top))));
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
  for (const one of series) {
    const values = one.values[model];
    const lower = base.slice();
    values.forEach((v, i) => { base[i] += v; });
    if (!values.some((v) => v > 0)) continue;
    const up = base.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`);
    const down = lower.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).reverse();
    root.append(svg("polygon", { points: up.concat(down).join(" "), fill: one.colour, stroke: "var(--panel)", "stroke-width": .6 }));
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
    return { name: a.name, ...m, estimate: per(m.estimate), charged: per(m.charged) };
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
      svg("line", { x1: x(r.estimate), x2: x(r.charged), y1: y, y2: y, stroke: "var(--line)", "stroke-width": 5, "stroke-linecap": "round" }),
      svg("circle", { cx: x(r.estimate), cy: y, r: 5.5, fill: "var(--panel)", stroke: "var(--c0)", "stroke-width": 2 }),
      svg("circle", { cx: x(r.charged), cy: y, r: 5, fill: "var(--c1)" }),
      svg("text", { x: W - R + 12, y: y + 4 }, ratio ? `${(ratio * 100).toFixed(ratio < 0.1 ? 1 : 0)} %` : "nothing"),
      svg("rect", { class: "hover", x: 0, y: y - rowHeight / 2, width: W, height: rowHeight, ...tip(text) }));
  });
  $("app-chart").replaceChildren(el("div", { class: "chart" },
    el("div", { class: "legend" }, el("span", {}, el("i", { class: "swatch", style: "border:2px solid var(--c0)" }), "estimated (rlimit era)"),
      el("span", {}, el("i", { class: "swatch", style: "background:var(--c1)" }), `charged under ${model}`), el("span", {}, "right: charge as a share of the estimate")), root));
  table("app-table", ["application", "placed", "running", "OOM kills", "estimate per replica", "charge per replica", "highest cgroup usage"].map((h) => el("th", {}, h)),
    rows.map((r) => el("tr", {}, el("th", {}, r.name), el("td", {}, count(r.placed)), el("td", {}, count(r.running)), el("td", { class: cellClass(r.kills, true) }, count(r.kills)),
      el("td", {}, bytes(r.estimate)), el("td", {}, bytes(r.charged)), el("td", {}, bytes(r.peak)))));
}

// -- OOM kills
function drawKills() {
  if (!DATA.kills.length) {
    $("kill-list").replaceChildren(el("p", { class: "empty" }, "No process was killed."));
    return;
  }
  const groups = new Map();
  for (const kill of DATA.kills) {
    const key = `${kill.workload}\u0000${kill.model}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(kill);
  }
  const sorted = [...groups.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, kills]) => kills);
  $("kill-list").replaceChildren(...sorted.map((kills) => el("details", { class: "cause" },
    el("summary", {}, el("span", { class: "many" }, count(kills.length), el("small", {}, kills.length === 1 ? "kill" : "kills")),
      el("span", {}, `${kills[0].workload} under ${kills[0].model}`, el("div", { class: "who" }, `on ${plural(new Set(kills.map((k) => k.node)).size, "node")}, first at ${kills[0].time_s} s`))),
    el("div", { class: "scroll" }, el("table", { class: "numbers" },
      el("thead", {}, el("tr", {}, ...["node", "time", "victim", "at the limit of", "what the memory is made of", "candidates and their badness"].map((h, i) => el("th", { class: i > 1 ? "text" : "" }, h)))),
      el("tbody", {}, ...kills.slice(0, 20).map(killRow)))))));
}
function killRow(kill) {
  const f = kill.fields;
  const objects = String(f.bpf_objects || "").split("; ").filter(Boolean).slice(0, 4).map((text) => {
    const cut = text.lastIndexOf(" ");
    return `${text.slice(0, cut).replace(/^(map|prog) \d+ /, "")} ${bytes(Number(text.slice(cut + 1)))}`;
  });
  const parts = [`limit ${bytes(Number(f.limit_bytes || 0))}`, `anonymous ${bytes(Number(f.group_anon_bytes || 0))}`, `BPF ${bytes(Number(f.bpf_bytes || 0))}${objects.length ? ` (${objects.join(", ")}${objects.length === 4 ? ", …" : ""})` : ""}`];
  return el("tr", {}, el("th", {}, kill.node), el("td", {}, `${kill.time_s} s`), el("td", { class: "text" }, `${f.comm || "?"}, pid ${f.pid}`),
    el("td", { class: "text" }, f.limited_cgroup || "the node"), el("td", { class: "text" }, parts.join("; ")), el("td", { class: "text" }, String(f.candidates || "–")));
}

// -- limits
function drawLimits(shape) {
  const limits = DATA.limits;
  if (!limits) return;
  const rows = limits.rows.filter((r) => r.shape === shape);
  $("limits-note").textContent = limits.note;
  table("limit-table", ["application", "now", ...limits.parts, "recommended", "least passing"].map((h) => el("th", {}, h)), rows.map((r) => el("tr", {},
    el("th", {}, r.application), el("td", {}, r.now === null ? "max" : bytes(r.now)), ...r.parts.map((v) => el("td", { class: cellClass(v, false) }, bytes(v))),
    el("td", { class: "bad" }, bytes(r.recommended)), el("td", {}, r.least === null ? "none found" : bytes(r.least)))));
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
  root.append(svg("text", { x: L - 6, y: H - 10, "text-anchor": "end" }, "CPUs"));
  const ends = [];
  const order = lines.filter((l) => l.bytes.some((v) => v !== null)).sort((a, b) => b.bytes.at(-1) - a.bytes.at(-1));
  order.forEach((line, index) => {
    const points = line.bytes.map((v, i) => [cpus.counts[i], v]).filter(([, v]) => v !== null);
    root.append(svg("polyline", { points: points.map(([c, v]) => `${x(c).toFixed(1)},${y(v).toFixed(1)}`).join(" "), fill: "none", stroke: colour(index), "stroke-width": 2, "stroke-linejoin": "round" }));
    for (const [c, v] of points) root.append(svg("circle", { cx: x(c), cy: y(v), r: 3.5, fill: colour(index), ...tip(`${line.application} under ${model}\n${plural(c, "CPU")}: ${bytes(v)}`) }));
    ends.push([line.application, y(points.at(-1)[1]), index]);
  });
  const refused = lines.filter((l) => l.bytes.every((v) => v === null)).map((l) => l.application);
  let last = -99;
  for (const [name, at, index] of ends.sort((a, b) => a[1] - b[1])) {
    const place = Math.max(at, last + 13);
    last = place;
    root.append(svg("line", { x1: W - R + 5, x2: W - R + 16, y1: at, y2: place, stroke: colour(index) }), svg("text", { class: "name", x: W - R + 20, y: place + 4 }, name));
  }
  root.setAttribute("viewBox", `0 0 ${W} ${Math.max(H, last + 12)}`);
  $("cpu-chart").replaceChildren(el("div", { class: "chart" }, root, refused.length ? el("p", { class: "note" }, `Refused on every host: ${refused.join(", ")}.`) : ""));
}

// -- method
function drawMethod() {
  $("method-text").replaceChildren(el("dl", { class: "kv" }, ...DATA.method.flatMap(([term, text]) => [el("dt", {}, term), el("dd", {}, text)])));
  if (DATA.unplaced.length) $("method-text").append(el("p", { class: "note" }, `Not placed: ${DATA.unplaced.map(([n, why]) => `${n} (${why})`).join("; ")}`));
}

function drawFidelity() {
  const cases = DATA.fidelity.reduce((sum, row) => sum + row.cases, 0);
  const exact = DATA.fidelity.reduce((sum, row) => sum + row.exact, 0);
  $("fidelity-note").textContent = `Calls recorded on real kernels and repeated on the emulator: ${count(exact)} of ${count(cases)} answered exactly, by errno, memlock line and charge.`;
  table("fidelity", ["recording", "cases", "exact", "differing", "not supported"].map((h) => el("th", {}, h)), DATA.fidelity.map((row) =>
    el("tr", {}, el("th", {}, row.file), el("td", {}, count(row.cases)), el("td", {}, count(row.exact)), el("td", { class: cellClass(row.mismatches, true) }, count(row.mismatches)), el("td", { class: cellClass(row.unsupported, true) }, count(row.unsupported)))));
}

// -- theme
function applyTheme(theme) { document.documentElement.dataset.theme = theme; }
applyTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
$("theme").addEventListener("click", () => applyTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

const options = MODELS.map((m) => [m, m]);
drawSummary();
drawUpgrade();
drawFleet();
drawDivergences();
segmented("time-by", [["workload", "by workload"], ["class", "by class"]], "workload", drawTime);
drawTime("workload");
const charging = DATA.meta.models.filter((m) => m.kind === "memcg").map((m) => m.name).at(-1) || MODELS.at(-1);
segmented("app-model", options, charging, drawApplications);
drawApplications(charging);
drawKills();
if (DATA.limits) {
  segmented("limit-shape", DATA.limits.shapes.map((s) => [s, s]), DATA.limits.shapes[0], drawLimits);
  drawLimits(DATA.limits.shapes[0]);
} else $("limits").hidden = true;
if (DATA.cpus) {
  segmented("cpu-model", DATA.cpus.models.map((m) => [m, m]), DATA.cpus.models[0], drawCpus);
  drawCpus(DATA.cpus.models[0]);
} else $("cpus").hidden = true;
drawMethod();
drawFidelity();
for (const link of document.querySelectorAll("nav a")) link.hidden = document.querySelector(link.hash).hidden;
document.documentElement.dataset.ready = "true";
