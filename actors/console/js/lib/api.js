// Requests to the node, with the token of who has signed in. The token lives as long as the tab.

const TOKEN = "lance.token";
const PATIENCE_MS = 15000;

/** An answer that is an error: status, code for programs, sentence for people. Status 0: there was no answer. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function token() {
  return sessionStorage.getItem(TOKEN);
}

export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

async function send(method, path, body) {
  const headers = {};
  if (token()) headers.Authorization = `Bearer ${token()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(PATIENCE_MS) };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new ApiError(0, "unreachable", error.name === "TimeoutError" ? "the node does not answer" : "the node cannot be reached");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new ApiError(response.status, told.code ?? "unknown", told.message ?? `the node answered ${response.status}`);
}

export async function getJson(path) {
  return (await send("GET", path)).json();
}

export async function getText(path) {
  return (await send("GET", path)).text();
}

export async function change(method, path, body) {
  return (await send(method, path, body)).json();
}

/** A path of parts that may hold anything. */
export function path(...parts) {
  return `/${parts.map(encodeURIComponent).join("/")}`;
}
