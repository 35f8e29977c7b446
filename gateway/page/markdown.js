// The little of Markdown that models write, as DOM nodes. Text goes in as text alone: whatever a model says, no
// markup of its own reaches the page.

const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|\*(?=[^\s*])([^*]*[^\s*])\*|\[([^\]\n]+)\]\((https?:\/\/[^\s()<>]+)\)/;

function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function inline(text) {
  const nodes = [];
  while (text !== "") {
    const found = INLINE.exec(text);
    if (found === null) break;
    if (found.index > 0) nodes.push(text.slice(0, found.index));
    const [whole, , code, strong, emphasis, label, address] = found;
    if (code !== undefined) {
      nodes.push(element("code", code));
    } else if (strong !== undefined) {
      nodes.push(element("strong", ...inline(strong)));
    } else if (emphasis !== undefined) {
      nodes.push(element("em", ...inline(emphasis)));
    } else {
      const link = element("a", label);
      link.href = address;
      link.rel = "noopener noreferrer";
      link.target = "_blank";
      nodes.push(link);
    }
    text = text.slice(found.index + whole.length);
  }
  if (text !== "") nodes.push(text);
  return nodes;
}

const FENCE = /^\s*(```+|~~~+)/;
const BULLET = /^(\s*)[-*+]\s+(.*)$/;
const NUMBER = /^(\s*)(\d{1,9})[.)]\s+(.*)$/;
const HEADING = /^#{1,6}\s+(.*)$/;
const QUOTE = /^>\s?(.*)$/;

// Blocks as {kind, lines}: of paragraphs, lists, quotes and code; in order.
function blocks(text) {
  const found = [];
  let open = null;
  let fence = null;
  for (const line of text.split("\n")) {
    const mark = FENCE.exec(line);
    if (fence !== null) {
      if (mark !== null && line.trim() === mark[1] && mark[1].startsWith(fence)) {
        fence = null;
        open = null;
      } else {
        open.lines.push(line);
      }
      continue;
    }
    let kind = "paragraph";
    if (mark !== null) kind = "code";
    else if (HEADING.test(line)) kind = "heading";
    else if (BULLET.test(line)) kind = "bullets";
    else if (NUMBER.test(line)) kind = "numbers";
    else if (QUOTE.test(line)) kind = "quote";
    else if (line.trim() === "") kind = "gap";
    else if ((open?.kind === "bullets" || open?.kind === "numbers") && /^\s/.test(line)) kind = open.kind;
    if (kind === "gap") {
      if (open?.kind === "bullets" || open?.kind === "numbers") open.gap = true;
      else open = null;
      continue;
    }
    if (kind === "code") {
      fence = mark[1];
      open = {kind, lines: []};
      found.push(open);
      continue;
    }
    if (open === null || open.kind !== kind || kind === "heading" || (open.gap && kind === "paragraph")) {
      open = {kind, lines: []};
      found.push(open);
    }
    open.gap = false;
    open.lines.push(line);
  }
  return found;
}

function list(name, pattern, lines) {
  const node = document.createElement(name);
  for (const line of lines) {
    const item = pattern.exec(line);
    if (item === null) {  // goes on with the item before
      node.lastChild.append("\n", ...inline(line.trim()));
      continue;
    }
    const entry = element("li", ...inline(item.at(-1)));
    if (name === "ol") entry.value = Number(item[2]);
    if (item[1].length > 1) entry.style.marginLeft = `${Math.min(item[1].length, 12) * 0.5}em`;
    node.append(entry);
  }
  return node;
}

function render({kind, lines}) {
  switch (kind) {
    case "code": return element("pre", element("code", lines.join("\n")));
    case "heading": return element("h3", ...inline(HEADING.exec(lines[0])[1]));
    case "bullets": return list("ul", BULLET, lines);
    case "numbers": return list("ol", NUMBER, lines);
    case "quote": return element("blockquote", ...inline(lines.map(line => QUOTE.exec(line)[1]).join("\n")));
    default: return element("p", ...inline(lines.join("\n")));
  }
}

// Shows a text that grows in `node`: blocks that are as they were are left alone.
export class Markdown {
  #node;
  #shown = [];
  constructor(node) {
    this.#node = node;
  }
  show(text) {
    const wanted = blocks(text);
    const keys = wanted.map(block => `${block.kind}\n${block.lines.join("\n")}`);
    let same = 0;
    while (same < keys.length && keys[same] === this.#shown[same]) ++same;
    while (this.#node.childNodes.length > same) this.#node.lastChild.remove();
    this.#node.append(...wanted.slice(same).map(render));
    this.#shown = keys;
  }
}
