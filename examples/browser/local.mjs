// In the place of the page's server.js: the same calls, answered by a model in this browser.

import * as ort from "./ort.wasm.min.js";
import { decode } from "./decode.js";
import { prepare, thin } from "./larger.js";
import { openModel } from "./model.js";
import { occlusionMap, seen } from "./occlusion.js";

const UNSURE_ODDS = 4; // as `serve` has it
const MOST_OPAQUE = 190; // of 255
const TOWARDS_REAL = [0, 114, 178]; // the colours of lightning_cifake/evaluation/colours.py
const TOWARDS_AI = [213, 94, 0];
const here = (name) => new URL(name, import.meta.url).href;

ort.env.wasm.wasmPaths = { mjs: here("ort-wasm.js"), wasm: here("ort-wasm.wasm") };
ort.env.wasm.numThreads = 1; // more would need headers that a server of files does not send

/** What the page says of where pictures go. */
export const where = "Nothing is kept, and nothing leaves this browser: the model came with the page, and runs in it.";

export class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  get busy() {
    return false;
  }
}

export const useToken = () => {};

let opening = null;

/** The model and its manifest, fetched once; again after it failed. */
async function opened() {
  opening ??= open();
  try {
    return await opening;
  } catch (error) {
    opening = null;
    throw new RequestError(`the model cannot be opened (${String(error.message).split("\n")[0]})`, 0);
  }
}

async function open() {
  const response = await fetch(here("model.json"));
  if (!response.ok) throw new Error(`model.json: ${response.status}`);
  const manifest = await response.json();
  return { manifest, model: await openModel(ort, here("model.onnx"), manifest) };
}

export async function getModel() {
  const { manifest, model } = await opened();
  const { file, sha256, image_size, temperature } = manifest.model;
  const figures = manifest.real ? { ...manifest.real.onnxruntime, images: manifest.real.images, data: manifest.real.data } : null;
  return {
    name: file.replace(/\.onnx$/, ""), file, sha256, image_size, temperature, threshold: model.threshold,
    calibration: calibrationOf(manifest.model), unsure: zoneOf(model.threshold),
    larger: ["resize", "crop", "tiles"], limits: {}, figures, card: null,
  };
}

/** As `serve` says it of a manifest. */
function calibrationOf({ calibrated, temperature, temperature_fitted: fitted = true }) {
  if (calibrated) return { ...calibrated, error: calibrated.after.ece };
  return temperature !== 1 && fitted ? { method: "temperature" } : null;
}

function zoneOf(threshold) {
  const away = (odds) => Number(((odds * threshold) / (odds * threshold + 1 - threshold)).toFixed(6));
  return [away(1 / UNSURE_ODDS), away(UNSURE_ODDS)];
}

/** Files -> answers, in order; as `predict --json` gives them. */
export async function predict(files, larger) {
  const { manifest, model } = await opened();
  const answers = [];
  for (const file of files) answers.push(await answerOf(file, larger, manifest.model.image_size, model));
  return answers;
}

async function answerOf(file, larger, size, model) {
  const answer = { path: file.name, verdict: null, prob_real: null, error: null, warning: null };
  let picture;
  try {
    picture = await decode(file);
  } catch (error) {
    return { ...answer, error: error.message };
  }
  const { data, height, width, count, warning } = prepare(picture, size, larger);
  picture.close();
  const found = await model.ask(data, height, width, count);
  // the model's own of one image; of several that of their mean logit
  const prob = count === 1 ? found[0].probReal : sigmoid(found.reduce((sum, { logit }) => sum + logit, 0) / count);
  const transparent = picture.transparent && "is transparent in places: that is dropped, and a browser loses some of the colours beneath";
  const warnings = [picture.warning, warning, transparent].filter(Boolean);
  return { ...answer, verdict: model.verdictOf(prob), prob_real: prob, warning: warnings.join("; ") || null };
}

function sigmoid(logit) {
  const small = Math.exp(-Math.abs(logit));
  return (logit >= 0 ? 1 : small) / (1 + small);
}

/** A file -> {answer, view, overlay}: pictures as data URLs. */
export async function explain(file) {
  const { manifest, model } = await opened();
  const size = manifest.model.image_size;
  const answer = await answerOf(file, "resize", size, model);
  if (answer.error) throw new RequestError(answer.error, 422);
  const picture = await decode(file);
  const view = seen(thin(picture, size), size);
  picture.close();
  const falls = await occlusionMap(model.ask, view, size);
  const most = Math.max(1e-9, ...falls.map(Math.abs));
  const shown = (colour) => {
    const pixels = new ImageData(size, size);
    for (let at = 0; at < size * size; at += 1) pixels.data.set(colour(at), at * 4);
    return asUrl(pixels);
  };
  return {
    answer,
    view: shown((at) => [...view.subarray(at * 3, at * 3 + 3), 255]),
    overlay: shown((at) => [...(falls[at] > 0 ? TOWARDS_REAL : TOWARDS_AI), Math.round((MOST_OPAQUE * Math.abs(falls[at])) / most)]),
  };
}

function asUrl(pixels) {
  const canvas = document.createElement("canvas");
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.toDataURL("image/png");
}
