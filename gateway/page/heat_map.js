// How many tokens each expert of each layer has had, as one cell each: experts across, layers down.

const MAX_CELL = 44;  // px; a model of few experts needs no wide cells
const AXIS_LEFT = 26;
const AXIS_TOP = 6;
const AXIS_BOTTOM = 30;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const format = value => value.toLocaleString("en");

// Colours are points of the custom property --heat, spread evenly; between them, straight lines.
function ramp() {
  const points = getComputedStyle(document.documentElement).getPropertyValue("--heat").trim().split(/\s+/)
    .map(hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({length: 256}, (_, i) => {
    const at = i / 255 * (points.length - 1);
    const low = Math.min(Math.floor(at), points.length - 2);
    const mixed = points[low].map((value, k) => Math.round(value + (points[low + 1][k] - value) * (at - low)));
    return `rgb(${mixed.join(" ")})`;
  });
}

// A canvas as large as its place, in the screen's own pixels; the context's units are CSS pixels.
export function fitCanvas(canvas, height) {
  const width = canvas.clientWidth;
  const ratio = window.devicePixelRatio || 1;
  const wide = Math.round(width * ratio);
  const high = Math.round(height * ratio);
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return {context, width, height};
}

export class HeatMap {
  #canvas;
  #legend;
  #legendTop;
  #readout;
  #colours = ramp();
  #data = null;  // {layers, experts, tokens [layers * experts], ratios [layers] or [], holders}
  #cursor = null;  // {layer, expert}
  #cell = {width: 0, height: 0};

  constructor(canvas, legend, legendTop, readout) {
    this.#canvas = canvas;
    this.#legend = legend;
    this.#legendTop = legendTop;
    this.#readout = readout;
    canvas.addEventListener("pointermove", event => this.#point(event));
    canvas.addEventListener("pointerdown", event => this.#point(event));
    canvas.addEventListener("pointerleave", () => this.#moveTo(null));
    canvas.addEventListener("blur", () => this.#moveTo(null));
    canvas.addEventListener("focus", () => {
      if (this.#cursor === null && canvas.matches(":focus-visible")) this.#moveTo({layer: 0, expert: 0});
    });
    canvas.addEventListener("keydown", event => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  recolour() {
    this.#colours = ramp();
    this.draw();
  }

  // holders: [{from, to, label}] of consecutive experts of a layer.
  set(data) {
    this.#data = data;
    const {layers, experts} = data;
    if (this.#cursor !== null) {
      this.#cursor = {layer: Math.min(this.#cursor.layer, layers - 1), expert: Math.min(this.#cursor.expert, experts - 1)};
    }
    this.draw();
  }

  draw() {
    const data = this.#data;
    if (data === null || this.#canvas.clientWidth === 0) return;
    const {layers, experts, tokens} = data;
    const room = this.#canvas.clientWidth - AXIS_LEFT;
    const cell = this.#cell = {
      width: Math.min(room / experts, MAX_CELL),
      height: layers <= 16 ? 18 : layers <= 40 ? 11 : layers <= 64 ? 7 : 5,
    };
    const {context} = fitCanvas(this.#canvas, AXIS_TOP + layers * cell.height + AXIS_BOTTOM);
    const most = tokens.reduce((a, b) => Math.max(a, b), 0);
    const gapX = cell.width >= 6 ? 1 : 0;
    const gapY = cell.height >= 6 ? 1 : 0;
    const ratio = window.devicePixelRatio || 1;
    const snap = value => Math.round(value * ratio) / ratio;  // narrow cells meet, and none is blurred
    for (let layer = 0; layer < layers; ++layer) {
      const y = AXIS_TOP + layer * cell.height;
      for (let expert = 0; expert < experts; ++expert) {
        const share = most === 0 ? 0 : tokens[layer * experts + expert] / most;
        const x = snap(AXIS_LEFT + expert * cell.width);
        context.fillStyle = this.#colours[Math.round(share * 255)];
        context.fillRect(x, y, snap(AXIS_LEFT + (expert + 1) * cell.width) - x - gapX, cell.height - gapY);
      }
    }
    this.#drawAxes(context);
    if (this.#cursor !== null) {
      context.strokeStyle = getComputedStyle(this.#canvas).color;
      context.lineWidth = 1.5;
      context.strokeRect(AXIS_LEFT + this.#cursor.expert * cell.width - 1, AXIS_TOP + this.#cursor.layer * cell.height - 1,
                         Math.max(cell.width, 4) + 1, cell.height + 1);
    }
    this.#drawLegend(most);
    this.#describe(most);
  }

  #drawAxes(context) {
    const {layers, experts, holders} = this.#data;
    const style = getComputedStyle(this.#canvas);
    const soft = style.getPropertyValue("--soft");
    context.font = `11px ${style.fontFamily}`;
    context.fillStyle = soft;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const every = [1, 2, 4, 8, 16, 32].find(step => step * this.#cell.height >= 18) ?? 64;
    for (let layer = 0; layer < layers; layer += every) {
      context.fillText(layer, AXIS_LEFT - 6, AXIS_TOP + (layer + 0.5) * this.#cell.height);
    }
    // Below: whose the columns are, then their numbers.
    const bottom = AXIS_TOP + layers * this.#cell.height;
    context.textAlign = "center";
    holders.forEach(({from, to}, i) => {
      context.globalAlpha = i % 2 === 0 ? 0.85 : 0.4;
      context.fillRect(AXIS_LEFT + from * this.#cell.width, bottom + 3, (to - from + 1) * this.#cell.width - 1, 3);
    });
    context.globalAlpha = 1;
    let free = 0;
    const room = context.measureText(String(experts - 1)).width + 8;
    for (const expert of this.#ticks(experts, room)) {
      const label = String(expert);
      const half = context.measureText(label).width / 2;
      const x = clamp(AXIS_LEFT + (expert + 0.5) * this.#cell.width, AXIS_LEFT + half, this.#canvas.clientWidth - half);
      if (x - half < free) continue;
      context.fillText(label, x, bottom + 18);
      free = x + half + 8;
    }
  }

  #ticks(experts, room) {
    const step = [1, 2, 4, 8, 16, 32, 64].find(step => step * this.#cell.width >= room) ?? 128;
    return Array.from({length: Math.ceil(experts / step)}, (_, i) => i * step);
  }

  #drawLegend(most) {
    const {context, width, height} = fitCanvas(this.#legend, 8);
    for (let x = 0; x < width; ++x) {
      context.fillStyle = this.#colours[Math.round(x / Math.max(width - 1, 1) * 255)];
      context.fillRect(x, 0, 1, height);
    }
    this.#legendTop.textContent = format(most);
  }

  #describe(most) {
    const {layers, experts, tokens, ratios, holders} = this.#data;
    this.#canvas.setAttribute("aria-label", `Tokens in the last minute of ${experts} experts in ${layers} layers; ` +
      `${format(most)} at most. Arrow keys show single values.`);
    let text = "Point at a cell, or walk over them with the arrow keys.";
    if (this.#cursor !== null) {
      const {layer, expert} = this.#cursor;
      const row = tokens.slice(layer * experts, (layer + 1) * experts);
      const sum = row.reduce((a, b) => a + b, 0);
      const holder = holders.find(({from, to}) => from <= expert && expert <= to);
      text = `Layer ${layer}, expert ${expert}: ${format(row[expert])} tokens`;
      if (sum > 0) text += ` (${(100 * row[expert] / sum).toFixed(1)} %)`;
      if (holder !== undefined) text += ` on ${holder.label}`;
      if (ratios[layer] > 0) text += ` · load ratio ${ratios[layer].toFixed(2)}`;
    }
    if (this.#readout.textContent !== text) this.#readout.textContent = text;
  }

  #moveTo(cursor) {
    if (cursor?.layer === this.#cursor?.layer && cursor?.expert === this.#cursor?.expert) return;
    this.#cursor = cursor;
    this.draw();
  }

  #point(event) {
    if (this.#data === null) return;
    const expert = Math.floor((event.offsetX - AXIS_LEFT) / this.#cell.width);
    const layer = Math.floor((event.offsetY - AXIS_TOP) / this.#cell.height);
    const inside = expert >= 0 && expert < this.#data.experts && layer >= 0 && layer < this.#data.layers;
    this.#moveTo(inside ? {layer, expert} : null);
  }

  #key(event) {
    if (this.#data === null) return;
    const {layers, experts} = this.#data;
    const {layer, expert} = this.#cursor ?? {layer: 0, expert: 0};
    const moves = {
      ArrowLeft: {layer, expert: expert - 1}, ArrowRight: {layer, expert: expert + 1},
      ArrowUp: {layer: layer - 1, expert}, ArrowDown: {layer: layer + 1, expert},
      Home: {layer, expert: 0}, End: {layer, expert: experts - 1},
      PageUp: {layer: 0, expert}, PageDown: {layer: layers - 1, expert},
    };
    const move = moves[event.key];
    if (move === undefined) return;
    event.preventDefault();
    this.#moveTo({layer: clamp(move.layer, 0, layers - 1), expert: clamp(move.expert, 0, experts - 1)});
  }
}
