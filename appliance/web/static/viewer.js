// The viewer of the study page. It shows the page's own picture at once, and the values at their full depth as soon as
// they are here. Without it the page shows the picture alone.
import { Pixels, paint, table } from "./viewer_pixels.js";
import { View } from "./viewer_view.js";

const COARSE = 1.5e6; // pixels, of which no more are painted while the window is dragged

const figure = document.getElementById("viewer");
const stage = document.getElementById("stage");
const canvas = document.getElementById("canvas");
const context = canvas.getContext("2d", { alpha: false });
const find = (id) => document.getElementById(id);
const study = figure.dataset.study;
const count = Number(figure.dataset.slices);
const words = JSON.parse(document.getElementById("words").content.textContent);
const fill = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const language = document.documentElement.lang;
const written = (number, digits = 0) => number.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: false });
const preview = stage.querySelector("img");
const overlays = [...stage.querySelectorAll("[data-overlay]")];

const view = new View(canvas);
const bitmap = document.createElement("canvas"); // the slice through the window
const state = { pixels: null, slice: Math.floor((count - 1) / 2), of: null, inverted: false, tool: "window", line: null };
let shown = null; // what lies in the bitmap
let waiting = false; // for the next frame

// --- drawing -----------------------------------------------------------------------------------------------------

function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function draw() {
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const stored = state.pixels?.ready.get(state.slice);
  if (stored) {
    const { description } = state.pixels;
    const stride = dragging && state.tool === "window" ? Math.max(Math.ceil(Math.sqrt((description.rows * description.columns) / COARSE)), 1) : 1;
    const key = [state.slice, state.inverted, stride, state.of.name, state.of.center, state.of.width].join();
    if (key !== shown) {
      paint(bitmap, stored, description, table(description, state.of, state.inverted !== description.inverted), stride);
      shown = key;
    }
    view.draw(context, bitmap);
  } else if (preview.naturalWidth) {
    context.filter = state.inverted ? "invert(1)" : "none";
    view.draw(context, preview, part(preview));
    context.filter = "none";
  }
  for (const overlay of overlays) {
    if (!overlay.dataset.on || !overlay.naturalWidth) continue;
    context.globalAlpha = find("opacity").value / 100;
    view.draw(context, overlay, part(overlay));
    context.globalAlpha = 1;
  }
  if (state.line) ruler();
  canvas.dataset.depth = stored ? "full" : "preview";
}

/** Of a strip of slices, one below the other: the one that is shown. */
function part(picture) {
  const tall = picture.naturalHeight / count;
  return [0, state.slice * tall, picture.naturalWidth, tall];
}

function ruler() {
  const [[from, to], unit] = [state.line, Math.max(devicePixelRatio, 1)];
  const [x0, y0] = view.point(...from), [x1, y1] = view.point(...to);
  context.lineWidth = 2 * unit;
  context.strokeStyle = context.fillStyle = "#ffd166";
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
  context.font = `600 ${15 * unit}px system-ui, sans-serif`;
  context.lineWidth = 4 * unit;
  context.strokeStyle = "#000";
  const words = distance(from, to);
  context.strokeText(words, x1 + 8 * unit, y1 - 8 * unit);
  context.fillText(words, x1 + 8 * unit, y1 - 8 * unit);
}

function distance([x0, y0], [x1, y1]) {
  const { spacing, at_detector: atDetector } = state.pixels?.description ?? {};
  if (!spacing) return fill(words.pixels, { length: written(Math.hypot(x1 - x0, y1 - y0)) });
  const length = Math.hypot((x1 - x0) * spacing[1], (y1 - y0) * spacing[0]);
  return atDetector ? fill(words.at_detector, { length: written(length, 1) }) : `${written(length, 1)} mm`;
}

function resize() {
  const ratio = devicePixelRatio || 1;
  const { width, height } = stage.getBoundingClientRect();
  const [wide, tall] = [Math.max(Math.round(width * ratio), 1), Math.max(Math.round(height * ratio), 1)];
  if (canvas.width === wide && canvas.height === tall) return;
  const center = view.fitted ? null : view.pixel(canvas.width / 2, canvas.height / 2);
  Object.assign(canvas, { width: wide, height: tall });
  if (center === null) view.fit();
  else {
    const [x, y] = view.point(...center);
    view.pan(wide / 2 - x, tall / 2 - y);
  }
  refresh();
}

// --- what is shown -------------------------------------------------------------------------------------------------

function say() {
  const { of } = state;
  find("levels").value = !of ? "" : of.values ? words.by_table : `W ${short(of.width)}  L ${short(of.center)}`;
  find("scale").value = `${Math.round(view.scale * 100)} %`;
  if (count > 1) {
    find("slice").value = state.slice + 1;
    find("place").value = fill(words.of, { slice: state.slice + 1, count });
  }
  refresh();
}

const short = (number) => (Math.abs(number) >= 100 ? Math.round(number) : Number(number.toPrecision(3)).toLocaleString(language, { maximumFractionDigits: 20 }));

/** The name of a window: one of the page's own, "Of the image 2", or what the header says. */
function named(name) {
  const [, own, number] = name.match(/^(.*?)( \d+)?$/);
  return own in words.windows ? words.windows[own] + (number ?? "") : name;
}

async function go(slice) {
  state.slice = Math.min(Math.max(slice, 0), count - 1);
  say();
  if (!state.pixels) return;
  await state.pixels.slice(state.slice).catch(failed);
  refresh();
}

function choose(number) {
  const { windows, luts } = state.pixels.description;
  state.of = { ...[...windows, ...luts][number] };
  find("preset").value = number;
  say();
}

function tool(name) {
  state.tool = name;
  for (const button of figure.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === name);
  canvas.dataset.tool = name;
}

const center = () => [canvas.width / 2, canvas.height / 2];
const actions = {
  in: () => view.zoom(1.25, ...center()),
  out: () => view.zoom(0.8, ...center()),
  fit: () => view.fit(),
  actual: () => view.actual(),
  invert: () => {
    state.inverted = !state.inverted;
    find("invert").setAttribute("aria-pressed", state.inverted);
  },
  reset: () => {
    state.inverted = false;
    state.line = null;
    find("invert").setAttribute("aria-pressed", "false");
    view.fit();
    tool("window");
    if (state.pixels) choose(0);
  },
  next: () => state.pixels && choose((Number(find("preset").value) + 1) % find("preset").options.length),
  full: () => (document.fullscreenElement ? document.exitFullscreen() : figure.requestFullscreen?.()),
  keys: () => find("keys").showModal(),
  overlay: () => {
    const toggles = [...figure.querySelectorAll("[data-toggle]")];
    const on = !toggles.some((each) => each.checked);
    for (const each of toggles) if (each.checked !== on) each.click();
  },
};

function act(name) {
  actions[name]();
  say();
}

function adjust(wider, brighter) {
  if (!state.of || state.of.values) return;
  const { description } = state.pixels;
  const [first] = description.windows;
  const step = first.width * 2;
  const sign = state.inverted !== description.inverted ? 1 : -1;
  const least = description.slope === 1 ? 1.01 : description.slope;
  state.of.width = Math.max(state.of.width + wider * step, least);
  state.of.center += sign * brighter * step;
  state.of.name = "";
  find("preset").value = "";
  say();
}

// --- hands ---------------------------------------------------------------------------------------------------------

const pointers = new Map();
let dragging = false;
let pinch = null;

function at(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, at(event));
  dragging = pointers.size === 1;
  pinch = pointers.size === 2 ? grip() : null;
  if (dragging && state.tool === "measure" && event.button === 0) state.line = [view.pixel(...at(event)), view.pixel(...at(event))];
  canvas.focus({ preventScroll: true });
});

canvas.addEventListener("pointermove", (event) => {
  const [x, y] = at(event);
  const before = pointers.get(event.pointerId);
  if (!before) return read(x, y);
  pointers.set(event.pointerId, [x, y]);
  const [dx, dy] = [x - before[0], y - before[1]];
  if (pointers.size === 2) {
    const now = grip();
    view.zoom(now.apart / pinch.apart, ...now.middle);
    view.pan(now.middle[0] - pinch.middle[0], now.middle[1] - pinch.middle[1]);
    pinch = now;
  } else if (state.tool === "move" || event.buttons & 4 || event.shiftKey) view.pan(dx, dy);
  else if (state.tool === "measure" && state.line) state.line[1] = view.pixel(x, y);
  else if (event.buttons & 2) view.zoom(Math.exp(-dy / 200), ...center());
  else if (state.tool === "window") adjust(dx / canvas.width, -dy / canvas.height);
  say();
});

function release(event) {
  pointers.delete(event.pointerId);
  dragging = false;
  pinch = null;
  refresh();
}
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => (find("value").value = ""));
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("dblclick", () => act(view.fitted ? "actual" : "fit"));

function grip() {
  const [[x0, y0], [x1, y1]] = pointers.values();
  return { apart: Math.max(Math.hypot(x1 - x0, y1 - y0), 1), middle: [(x0 + x1) / 2, (y0 + y1) / 2] };
}

function read(x, y) {
  const [column, row] = view.pixel(x, y).map(Math.floor);
  const value = state.pixels?.value(state.slice, row, column) ?? null;
  find("value").value = value === null ? "" : `${column}, ${row}: ${short(value)} ${state.pixels.description.unit}`.trim();
}

let rolled = 0;
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (count > 1 && !event.ctrlKey) {
    rolled += Math.abs(event.deltaY) < 40 ? event.deltaY / 40 : Math.sign(event.deltaY);
    const steps = Math.trunc(rolled);
    rolled -= steps;
    if (steps) go(state.slice + steps);
  } else {
    view.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), ...at(event));
    say();
  }
}, { passive: false });

const keys = {
  "+": () => act("in"), "=": () => act("in"), "-": () => act("out"), 0: () => act("fit"), 1: () => act("actual"),
  i: () => act("invert"), r: () => act("reset"), p: () => act("next"), f: () => act("full"), o: () => act("overlay"),
  w: () => tool("window"), m: () => tool("move"), d: () => tool("measure"), "?": () => act("keys"),
  PageDown: () => go(state.slice + 1), PageUp: () => go(state.slice - 1), ".": () => go(state.slice + 1), ",": () => go(state.slice - 1),
  Home: () => go(0), End: () => go(count - 1),
};
const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = arrows[event.key];
  if (arrow && event.shiftKey) adjust(arrow[0] * 0.02, -arrow[1] * 0.02);
  else if (arrow) {
    view.pan((-arrow[0] * canvas.width) / 20, (-arrow[1] * canvas.height) / 20);
    say();
  } else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});

for (const button of figure.querySelectorAll("[data-do]")) button.addEventListener("click", () => act(button.dataset.do));
for (const button of figure.querySelectorAll("[data-tool]")) button.addEventListener("click", () => tool(button.dataset.tool));
for (const toggle of figure.querySelectorAll("[data-toggle]")) {
  toggle.addEventListener("change", () => {
    const overlay = stage.querySelector(`[data-overlay="${toggle.dataset.toggle}"]`);
    overlay.dataset.on = toggle.checked ? "yes" : "";
    find("opacity").disabled = !figure.querySelector("[data-toggle]:checked");
    refresh();
  });
}
find("opacity")?.addEventListener("input", refresh);
find("preset").addEventListener("change", (event) => choose(Number(event.target.value)));
find("slice")?.addEventListener("input", (event) => go(event.target.value - 1));

// --- the start -----------------------------------------------------------------------------------------------------

function failed() {
  find("depth").textContent = words.preview_only;
  find("depth").hidden = false;
}

async function start() {
  figure.classList.add("live");
  const beginning = Pixels.load(study);
  beginning.catch(() => {});
  await preview.decode().catch(() => {});
  if (!state.pixels && preview.naturalWidth) view.measure(preview.naturalHeight / count, preview.naturalWidth, 1);
  new ResizeObserver(resize).observe(stage);
  resize();
  tool("window");
  say();
  for (const overlay of overlays) overlay.decode().then(refresh).catch(() => {});
  try {
    const pixels = await beginning;
    await pixels.slice(state.slice);
    state.pixels = pixels;
  } catch {
    return failed();
  }
  const { rows, columns, aspect, windows, luts, edges } = state.pixels.description;
  view.measure(rows, columns, aspect);
  find("edges").replaceChildren(...(edges ?? []).map((letters) => Object.assign(document.createElement("span"), { className: "readout", textContent: letters })));
  find("edges").hidden = !edges;
  const preset = find("preset");
  preset.replaceChildren(...[...windows, ...luts].map(({ name }, number) => new Option(named(name), number)));
  for (const each of figure.querySelectorAll("[data-full]")) each.disabled = false;
  choose(0);
  // The slices around it, so that they are there when they are scrolled to.
  for (let away = 1; away < count; away++)
    for (const number of [state.slice + away, state.slice - away])
      if (number >= 0 && number < count) await state.pixels.slice(number).catch(() => {});
}

start();
