// The server's API: requests with the key, errors as the server tells them, the events of a stream.

// What went wrong, in words for a reader. `status` is 0 when there was no answer, or when it broke off.
class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }
}

const apiKey = {
  get: () => tabStorage.get("key") ?? "",
  set: (key) => tabStorage.set("key", key),
};

// Sends a request and returns the answer, if it is one of success; throws ApiError, or AbortError when told to stop. Paths
// are relative to the page, which may be served under a prefix.
async function callApi(path, { body = undefined, signal = undefined } = {}) {
  const headers = {};
  const key = apiKey.get();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(headers.Authorization && /[^\x20-\x7e]/.test(key) ? "The API key has characters that no key has." : "The server does not answer.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const seconds = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  const details = { status: response.status, retryAfter: Number.isFinite(seconds) ? seconds : null };
  try {
    const { error } = await response.json();
    return new ApiError(error.message, { ...details, code: error.code, param: error.param });
  } catch {
    return new ApiError(`The server answered with status ${response.status}.`, details);
  }
}

// The data of server-sent events, one after the other, wherever the network cut them, inside characters too.
async function* serverSentEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trimStart();
      }
    }
  } finally {
    reader.cancel().catch(() => {});  // whoever stops reading early does not want the rest
  }
}

// The chunks of a streamed completion, to its very end; what breaks off throws.
async function* streamCompletion(fields, signal) {
  const body = { ...fields, stream: true, stream_options: { include_usage: true } };
  const response = await callApi("v1/completions", { body, signal });
  try {
    for await (const data of serverSentEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, { status: 200, code: chunk.error.code });
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("The connection broke while the answer came.");
  }
  throw new ApiError("The answer broke off before its end.");
}
