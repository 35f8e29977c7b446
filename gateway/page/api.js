// Calls to the gateway that serves this page, with the key that the user has given.

const KEY = "moepool-api-key";

// Of this tab alone, and gone with it.
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setApiKey(key) {
  if (key === "") sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

// What went wrong, in words for people. status: of HTTP, 0 where there was no answer.
export class ApiError extends Error {
  constructor(message, status, requestId) {
    super(message);
    this.status = status;
    this.requestId = requestId;
  }
}

// A response that is 2xx; ApiError otherwise. An abort by `signal` goes through as it is.
export async function call(path, {body, signal} = {}) {
  const headers = {};
  if (apiKey() !== "") headers["Authorization"] = `Bearer ${apiKey()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The gateway does not answer.", 0, "");
  }
  if (response.ok) return response;
  const requestId = response.headers.get("x-request-id") ?? "";
  let message = `HTTP ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // Not in the gateway's shape: something between here and there has answered.
  }
  throw new ApiError(message, response.status, requestId);
}

// The values of `data:` lines of server-sent events as they come, up to "[DONE]"; an event with an error throws it.
export async function* events(response) {
  const requestId = response.headers.get("x-request-id") ?? "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The connection to the gateway was lost.", 0, requestId);
    }
    if (part.done) throw new ApiError("The answer ended before its end.", 0, requestId);
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message, 200, requestId);
      yield event;
    }
  }
}
