// Requests to the server that this page came from, and to no other.

const SECONDS = 120; // that an answer may take

/** A request that failed: `status` of HTTP, 0 if the server could not be reached. */
export class RequestError extends Error {
  constructor(message, status, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter; // seconds, if the server said so
  }

  get busy() {
    return this.status === 429 || this.status === 503;
  }
}

/** Where pictures go, if not to this page's server: said by who stands in this file's place. */
export const where = null;

let token = null;
export const useToken = (value) => {
  token = value;
};

export const getModel = () => request("v1/model");

/** Files -> their answers, in order. */
export async function predict(files, larger, signal) {
  const found = await request(`v1/predict?larger=${encodeURIComponent(larger)}`, { files, signal });
  if (!Array.isArray(found?.answers) || found.answers.length !== files.length) {
    throw new RequestError(`expected ${files.length} answers, got ${found?.answers?.length ?? "none"}`, 500);
  }
  return found.answers;
}

/** A file -> {answer, view, overlay}: pictures as data URLs. */
export const explain = (file, signal) => request("v1/explain", { files: [file], signal });

async function request(path, { files, signal } = {}) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const limit = AbortSignal.timeout(SECONDS * 1000);
  const options = { headers, cache: "no-store", signal: signal ? AbortSignal.any([signal, limit]) : limit };
  if (files) {
    options.method = "POST";
    options.body = new FormData();
    for (const file of files) options.body.append("files", file, file.name);
  }
  let response;
  let found;
  try {
    response = await fetch(path, options);
    found = await response.json().catch((error) => {
      if (!(error instanceof SyntaxError)) throw error; // cut off
      return null;
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError") throw new RequestError(`no answer in ${SECONDS} seconds`, 408);
    throw new RequestError("the server cannot be reached", 0);
  }
  if (response.ok && found !== null) return found;
  const after = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  const said = typeof found?.error === "string" ? found.error : `the server answered ${response.status}`;
  throw new RequestError(said, response.status, Number.isFinite(after) ? after : null);
}
