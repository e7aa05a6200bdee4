// Many pictures, asked about in batches, a bounded number of them at once.

import { RequestError, getModel, predict } from "./server.js";

const AT_ONCE = 2; // requests
const FILES = 16; // of a request
const BYTES = 24 * 2 ** 20; // of a request, unless one file alone has more
const TRIES = 6; // of a busy server

const TOO_LARGE = "it is too large for this server";
const UNSENT = "it could not be sent: it was changed or moved since you chose it, or is too large for this server";

/**
 * Asks about items, {file, alone?, tries?}, in order.
 *
 * `told` is an object of functions that are called as things happen: `answered(item, answer)`, `refused(item, reason)`
 * for one that would be refused again, `unanswered(items, reason)` for those that may be asked again later,
 * `waits(seconds)` while the server is busy, `needsToken()`, and `changed()` after each.
 */
export class Asking {
  constructor(told) {
    this.told = told;
    this.larger = "resize";
    this.limits = {};
    this.waiting = [];
    this.running = new Map(); // items in flight -> what stops them
    this.pause = null;
  }

  get left() {
    return this.waiting.length + [...this.running.keys()].reduce((sum, items) => sum + items.length, 0);
  }

  add(items) {
    this.waiting.push(...items);
    this.go();
  }

  drop(items) {
    const gone = new Set(items);
    this.waiting = this.waiting.filter((item) => !gone.has(item));
    this.go();
  }

  /** Stops everything; returns what has no answer. */
  stop() {
    const items = [...this.running.keys()].flat().concat(this.waiting);
    for (const controller of this.running.values()) controller.abort();
    this.running.clear();
    this.waiting = [];
    clearTimeout(this.pause);
    this.pause = null;
    this.told.changed();
    return items;
  }

  go() {
    while (this.pause === null && this.running.size < AT_ONCE && this.waiting.length) this.send(this.nextBatch());
    this.told.changed();
  }

  nextBatch() {
    const most = Math.min(FILES, this.limits.files ?? FILES);
    const room = Math.min(BYTES, 0.95 * (this.limits.body_bytes ?? BYTES));
    const batch = [];
    let size = 0;
    while (this.waiting.length && batch.length < most) {
      const [item] = this.waiting;
      if (batch.length && (item.alone || batch[0].alone || size + item.file.size > room)) break;
      batch.push(this.waiting.shift());
      size += item.file.size;
    }
    return batch;
  }

  async send(items) {
    const controller = new AbortController();
    this.running.set(items, controller);
    try {
      const answers = await predict(items.map((item) => item.file), this.larger, controller.signal);
      items.forEach((item, at) => this.told.answered(item, answers[at]));
    } catch (error) {
      if (controller.signal.aborted) return; // stop() has told of it
      await this.failed(items, error);
    }
    if (this.running.delete(items)) this.go();
  }

  async failed(items, error) {
    if (!(error instanceof RequestError)) throw error;
    if (error.status === 0 && (await reachable())) {
      this.singly(items, UNSENT); // the server is there: it is about these files
    } else if (error.status === 401) {
      this.hold(items);
      this.told.needsToken();
    } else if (error.busy && (items[0].tries ?? 0) < TRIES) {
      for (const item of items) item.tries = (item.tries ?? 0) + 1;
      this.hold(items);
      const seconds = Math.min(30, error.retryAfter ?? 2 ** (items[0].tries - 1));
      this.told.waits(seconds);
      clearTimeout(this.pause);
      this.pause = setTimeout(() => this.resume(), 1000 * seconds);
    } else if ([400, 408, 413, 415, 422].includes(error.status)) {
      this.singly(items, error.status === 413 ? TOO_LARGE : error.message);
    } else {
      // those that wait would fare no better
      const waiting = this.waiting.splice(0);
      for (const item of items) item.tries = 0;
      this.told.unanswered([...items, ...waiting], error);
    }
  }

  /** Each by itself, so that one does not cost the others their answer; one that was by itself is refused. */
  singly(items, reason) {
    if (items.length === 1) return this.told.refused(items[0], reason);
    for (const item of items) item.alone = true;
    this.waiting.unshift(...items);
  }

  /** Back to the front; nothing is sent until resume(). */
  hold(items) {
    this.waiting.unshift(...items);
    this.pause ??= 0;
  }

  resume() {
    this.pause = null;
    this.go();
  }
}

async function reachable() {
  try {
    await getModel();
    return true;
  } catch (error) {
    return error instanceof RequestError && error.status !== 0;
  }
}
