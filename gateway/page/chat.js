// The conversation: one request a message, with all that was said before, through /v1/chat/completions.

import {ApiError, apiKey, call, events, setApiKey} from "./api.js";
import {Markdown} from "./markdown.js";

const byId = id => document.getElementById(id);
const messages = byId("messages");
const prompt = byId("prompt");

let history = [];  // of what was said: {role, content}
let running = null;  // the AbortController of the answer under way
let model = "";

export function setModel(name) {
  model = name;
}

function make(parent, name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  parent.append(node);
  return node;
}

function atEnd() {
  return messages.scrollHeight - messages.scrollTop - messages.clientHeight < 40;
}

function facts(parent, values) {
  make(parent, "div", "facts", values.filter(value => value !== "").join(" · "));
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// An answer on the page while it comes in. What has arrived is drawn once a frame at most.
class Answer {
  text = "";
  reasoning = "";
  pieces = 0;
  usage = null;
  finish = "";
  #node = make(messages, "div", "answer busy");
  #thought = null;
  #markdown;
  #drawing = 0;
  #began = performance.now();
  #first = 0;
  #last = 0;

  constructor() {
    this.#markdown = new Markdown(make(this.#node, "div", "text"));
  }

  add(event) {
    if (event.usage) this.usage = event.usage;
    const choice = event.choices?.[0];
    if (choice === undefined) return;
    const {content, reasoning_content: reasoning} = choice.delta ?? {};
    if (content || reasoning) {
      this.#last = performance.now();
      if (this.#first === 0) this.#first = this.#last;
      this.pieces += 1;
      this.text += content ?? "";
      this.reasoning += reasoning ?? "";
      this.#drawing ||= requestAnimationFrame(() => this.#draw());
    }
    if (choice.finish_reason) this.finish = choice.finish_reason;
  }

  #draw() {
    this.#drawing = 0;
    const follow = atEnd();
    if (this.reasoning !== "") {
      if (this.#thought === null) {
        const details = document.createElement("details");
        details.className = "reasoning";
        make(details, "summary", "", "Reasoning");
        this.#thought = make(details, "div", "");
        this.#node.prepend(details);
      }
      this.#thought.textContent = this.reasoning.trim();
    }
    this.#markdown.show(this.text);
    if (follow) messages.scrollTop = messages.scrollHeight;
  }

  end(how) {
    cancelAnimationFrame(this.#drawing);
    this.#draw();
    this.#node.classList.remove("busy");
    if (this.#first === 0) {
      if (how === "failed") this.#node.remove();
      else facts(this.#node, [how === "stopped" ? "stopped before the first token" : "an empty answer"]);
      return;
    }
    const tokens = this.usage?.completion_tokens ?? this.pieces;
    const seconds = (this.#last - this.#first) / 1000;
    const why = how !== "ended" ? how : this.finish === "length" ? "ended at max tokens" : "";
    facts(this.#node, [
      plural(tokens, "token"),
      seconds > 0.1 ? `${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "",
      `first after ${Math.round(this.#first - this.#began).toLocaleString("en")} ms`,
      this.usage?.prompt_tokens_details?.cached_tokens
        ? `${this.usage.prompt_tokens_details.cached_tokens.toLocaleString("en")} of ` +
          `${this.usage.prompt_tokens.toLocaleString("en")} prompt tokens cached` : "",
      why,
    ]);
    messages.scrollTop = messages.scrollHeight;
  }
}

function showError(error) {
  const box = make(messages, "div", "error");
  box.setAttribute("role", "alert");
  make(box, "b", "", error.status ? `${error.status === 200 ? "The answer broke off" : `Error ${error.status}`}: ` : "");
  box.append(error.message);
  if (error.requestId) facts(box, [`request ${error.requestId}`]);
  const again = make(box, "button", "", "Try again");
  again.type = "button";
  again.style.display = "block";
  again.addEventListener("click", () => {
    if (running !== null) return;
    if (box.previousElementSibling?.classList.contains("answer")) box.previousElementSibling.remove();  // it broke off
    box.remove();
    ask();
  });
  if (error.status === 401) {
    byId("settings").open = true;
    byId("api-key").focus();
  }
  messages.scrollTop = messages.scrollHeight;
}

function number(id) {
  const text = byId(id).value.trim();
  return text === "" ? undefined : Number(text);
}

function request() {
  const system = byId("system").value.trim();
  return {
    model,
    messages: system === "" ? history : [{role: "system", content: system}, ...history],
    temperature: number("temperature"),
    max_tokens: number("max-tokens"),
    seed: number("seed"),
    stream: true,
    stream_options: {include_usage: true},
  };
}

function setRunning(controller) {
  running = controller;
  byId("send").hidden = controller !== null;
  byId("stop").hidden = controller === null;
  byId("new-chat").disabled = controller !== null || history.length === 0;
}

// Answers history, whose last message is the user's.
async function ask() {
  const controller = new AbortController();
  setRunning(controller);
  byId("spoken").textContent = "Answering";
  const answer = new Answer();
  let failure = null;
  try {
    const response = await call("/v1/chat/completions", {body: request(), signal: controller.signal});
    for await (const event of events(response)) answer.add(event);
  } catch (error) {
    if (!controller.signal.aborted) failure = error;
  }
  answer.end(failure !== null ? "failed" : controller.signal.aborted ? "stopped" : "ended");
  if (failure === null) history.push({role: "assistant", content: answer.text});
  setRunning(null);
  byId("spoken").textContent = failure === null ? answer.text : "";
  if (failure !== null) {
    showError(failure instanceof ApiError ? failure : new ApiError(String(failure.message ?? failure), 0, ""));
  }
}

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

function send() {
  const text = prompt.value.trim();
  if (text === "" || running !== null) return;
  const wrong = byId("composer").querySelector("input:invalid");
  if (wrong !== null) {
    byId("settings").open = true;
    wrong.reportValidity();
    return;
  }
  byId("empty")?.remove();
  // A question that failed, and that the user has now put differently, is none of the conversation.
  if (history.at(-1)?.role === "user") history.pop();
  for (const box of messages.querySelectorAll(".error")) box.remove();
  history.push({role: "user", content: text});
  make(make(messages, "div", "user"), "div", "", text);
  prompt.value = "";
  fit();
  messages.scrollTop = messages.scrollHeight;
  ask();
}

export function startChat() {
  byId("composer").addEventListener("submit", event => {
    event.preventDefault();
    send();
  });
  prompt.addEventListener("input", fit);
  prompt.addEventListener("keydown", event => {
    // While an input method composes, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("new-chat").addEventListener("click", () => {
    history = [];
    messages.replaceChildren();
    setRunning(null);
    prompt.focus();
  });
  byId("api-key").value = apiKey();
  byId("api-key").addEventListener("input", event => setApiKey(event.target.value.trim()));
  prompt.focus({preventScroll: true});
}
