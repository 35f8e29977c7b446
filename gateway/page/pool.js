// The pool as the router tells it, once a second: figures, workers, and the heat map of experts.

import {call} from "./api.js";
import {setModel} from "./chat.js";
import {fitCanvas, HeatMap} from "./heat_map.js";

const INTERVAL_MS = 1000;
const HISTORY = 120;  // samples
const RATE_MS = 3000;  // that rates are taken over

const byId = id => document.getElementById(id);
const format = value => value.toLocaleString("en", {maximumFractionDigits: 0});

let heat = null;
let sights = [];  // of the router within RATE_MS, the latest last
let rates = [];  // tokens a second, the latest last

// Of the amounts, in one unit: "9.3 GiB", "9.3 / 24.0 GiB".
function bytes(...values) {
  const [unit, size] = Math.max(...values) >= 2 ** 30 ? ["GiB", 2 ** 30] : ["MiB", 2 ** 20];
  return `${values.map(value => (value / size).toFixed(value >= 100 * size ? 0 : 1)).join(" / ")} ${unit}`;
}

function time(us) {
  return us >= 1000 ? `${(us / 1000).toFixed(us >= 100_000 ? 0 : 2)} ms` : `${us.toFixed(0)} µs`;
}

// {from, to} of "0-7", "0-3,8,10-11", …; nothing where it is not of this form.
function ranges(text) {
  return text.split(",").map(part => /^\s*(\d+)(?:\s*-\s*(\d+))?\s*$/.exec(part)).filter(found => found !== null)
    .map(found => ({from: Number(found[1]), to: Number(found[2] ?? found[1])}));
}

function cell(row, className = "") {
  const node = row.insertCell();
  node.className = className;
  return node;
}

function line(parent, name, className, text) {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  parent.append(node);
  return node;
}

function meter(parent, share) {
  const outer = line(parent, "span", "meter", "");
  outer.setAttribute("aria-hidden", "true");
  line(outer, "i", "", "").style.width = `${Math.min(Math.max(share, 0), 1) * 100}%`;
}

// "GPU 21.3 / 24.0 GiB, 97 %"; empty where nothing is known.
function gpuText(gpu) {
  const facts = [];
  if (gpu?.memory_total_bytes > 0) facts.push(bytes(gpu.memory_used_bytes ?? 0, gpu.memory_total_bytes));
  if (gpu?.utilization_ratio !== undefined) facts.push(`${Math.round(gpu.utilization_ratio * 100)} %`);
  return facts.length > 0 ? `GPU ${facts.join(", ")}` : "";
}

const STATES = {ready: "ready", lost: "away"};

function showWorkers(workers) {
  byId("worker-count").textContent = workers.length === 0 ? "none yet" : String(workers.length);
  const rows = document.createDocumentFragment();
  for (const worker of workers) {
    const row = document.createElement("tr");
    const name = cell(row);
    line(name, "span", "worker-name", worker.name);
    const about = line(name, "small", "worker-state", `${worker.state} · ${worker.backend} · ${worker.transport}`);
    about.dataset.state = STATES[worker.state] ?? "wait";
    const experts = cell(row);
    experts.append(worker.experts || "–");
    line(experts, "small", "", `${format(worker.experts_held)} held`);
    const load = cell(row);
    if (worker.busy_ratio === undefined) {
      load.append("–");
    } else {
      load.append(`${Math.round(worker.busy_ratio * 100)} %`);
      meter(load, worker.busy_ratio);
    }
    const memory = cell(row);
    if (worker.memory_limit_bytes > 0) {
      memory.append(bytes(worker.expert_bytes, worker.memory_limit_bytes));
      meter(memory, worker.expert_bytes / worker.memory_limit_bytes);
    } else {
      memory.append(bytes(worker.expert_bytes));
      line(memory, "small", "", "no limit");
    }
    const gpu = gpuText(worker.gpu);
    if (gpu !== "") line(memory, "small", "", gpu).title = worker.gpu.name;
    cell(row, "number").append(worker.round_trip_us > 0 ? time(worker.round_trip_us) : "–");
    rows.append(row);
  }
  byId("workers").replaceChildren(rows);
}

function showRates(pool) {
  const last = sights.at(-1);
  if (last !== undefined && pool.unix_ms === last.unix_ms) return;
  // A router that was started again counts from 0.
  if (last !== undefined && pool.totals.steps < last.totals.steps) sights = [];
  sights.push(pool);
  while (sights.length > 2 && pool.unix_ms - sights[1].unix_ms >= RATE_MS) sights.shift();
  const first = sights[0];
  const seconds = (pool.unix_ms - first.unix_ms) / 1000;
  if (seconds <= 0) return;
  const rate = (pool.totals.decode_rows - first.totals.decode_rows) / seconds;
  const prefill = (pool.totals.prefill_rows - first.totals.prefill_rows) / seconds;
  byId("rate").textContent = format(rate);
  byId("prefill-rate").textContent = `prefill ${format(prefill)}`;
  rates = [...rates, rate].slice(-HISTORY);
  drawHistory();
}

function drawHistory() {
  const canvas = byId("history");
  if (canvas.clientWidth === 0) return;
  const {context, width, height} = fitCanvas(canvas, 44);
  const style = getComputedStyle(canvas);
  const most = Math.max(...rates, 1);
  const x = i => width - (rates.length - 1 - i) * width / (HISTORY - 1);
  const y = rate => height - 1 - rate / most * (height - 4);
  context.strokeStyle = style.getPropertyValue("--line");
  context.beginPath();
  context.moveTo(0, height - 0.5);
  context.lineTo(width, height - 0.5);
  context.stroke();
  if (rates.length < 2) return;
  const curve = new Path2D();
  rates.forEach((rate, i) => curve.lineTo(x(i), y(rate)));
  context.strokeStyle = style.getPropertyValue("--accent");
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.stroke(curve);
  curve.lineTo(width, height);
  curve.lineTo(x(0), height);
  context.globalAlpha = 0.12;
  context.fillStyle = style.getPropertyValue("--accent");
  context.fill(curve);
  context.globalAlpha = 1;
}

function showHeat(pool) {
  const {layers = 0, experts = 0, expert_tokens_last_minute: tokens = []} = pool;
  const known = layers > 0 && experts > 0 && tokens.length === layers * experts;
  byId("heat").hidden = !known;
  if (!known) return;
  const holders = pool.workers.flatMap(worker => ranges(worker.experts).map(range => ({...range, label: worker.name})))
    .filter(({from, to}) => from <= to && to < experts).sort((a, b) => a.from - b.from);
  heat.set({layers, experts, tokens, ratios: pool.load_ratio ?? [], holders});
}

function setState(state, text) {
  byId("state").dataset.state = state;
  if (byId("state").textContent !== text) byId("state").textContent = text;
}

function showNotice(text) {
  byId("pool").classList.toggle("stale", text !== "");
  byId("notice").hidden = text === "";
  if (byId("notice").textContent !== text) byId("notice").textContent = text;
}

function show(pool) {
  setModel(pool.model);
  byId("model").textContent = pool.model;
  document.title = pool.model ? `${pool.model} · moepool` : "moepool";
  setState(pool.ready ? "ready" : "wait", pool.ready ? "ready" : "not ready");
  byId("running").textContent = format(pool.running);
  byId("waiting").textContent = format(pool.waiting);
  const used = pool.kv_blocks > 0 ? (pool.kv_blocks - pool.kv_blocks_free) / pool.kv_blocks : 0;
  byId("kv").textContent = `${(used * 100).toFixed(used > 0 && used < 0.1 ? 1 : 0)} %`;
  byId("kv-bar").style.width = `${used * 100}%`;
  showRates(pool);
  showWorkers(pool.workers);
  showHeat(pool);
  showNotice("");
  if (!pool.ready) {
    byId("notice").textContent = `Not ready: ${pool.waiting_for || "the pool is being set up"}`;
    byId("notice").hidden = false;
  }
}

function showFailure(error) {
  if (error.status === 401) {
    setState("wait", "locked");
    showNotice("This gateway asks for an API key. Enter it under Settings, beside the chat.");
  } else {
    setState("away", error.status === 0 ? "gateway away" : "router away");
    showNotice(`${error.message.replace(/[.\s]*$/, ".")} What is shown is what was last known.`);
  }
}

async function look() {
  try {
    show(await (await call("/pool", {signal: AbortSignal.timeout(10_000)})).json());
  } catch (error) {
    showFailure(error.status === undefined ? {status: 0, message: "The gateway does not answer."} : error);
  }
}

export function startPool() {
  heat = new HeatMap(byId("heat-map"), byId("legend"), byId("legend-top"), byId("heat-value"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    heat.recolour();
    drawHistory();
  });
  new ResizeObserver(drawHistory).observe(byId("history").parentElement);
  byId("api-key").addEventListener("change", look);
  const loop = async () => {
    // A page that nobody sees asks for nothing.
    if (!document.hidden) await look();
    setTimeout(loop, INTERVAL_MS);
  };
  document.addEventListener("visibilitychange", () => document.hidden || look());
  loop();
}
