// Is an image AI-generated? Asks a model that `python -m lightning_cifake export` wrote:
//
//     node detect.mjs model.onnx photo.jpg more.png
//
// prints a line an image, as `predict --model` does: path, AI or REAL, P(REAL).

import { readFile } from "node:fs/promises";
import process from "node:process";
import ort from "onnxruntime-node";
import sharp from "sharp";
import { openModel } from "./model.mjs";

const [modelPath, ...imagePaths] = process.argv.slice(2);
if (!modelPath || imagePaths.length === 0) {
  console.error("usage: node detect.mjs MODEL.onnx IMAGE...");
  process.exit(2);
}

try {
  const manifest = JSON.parse(await readFile(modelPath.replace(/\.onnx$/, ".json"), "utf8"));
  const model = await openModel(ort, modelPath, manifest);
  for (const path of imagePaths) {
    try {
      const { data, info } = await decode(path);
      const [{ probReal }] = await model.ask(data, info.height, info.width);
      console.log(`${path}\t${model.verdictOf(probReal)}\t${probReal.toFixed(6)}`);
    } catch (error) {
      console.log(`${path}\tERROR\t${String(error.message).split("\n")[0]}`);
      process.exitCode = 1;
    }
  }
} catch (error) {
  console.error(`error: ${String(error.message).split("\n")[0]}`);
  process.exitCode = 2;
}

/** One image file -> its pixels: upright by EXIF, in sRGB, transparency dropped, grey repeated, as in training. */
function decode(path) {
  return sharp(path)
    .autoOrient()
    .removeAlpha()
    .toColourspace("srgb")
    .raw()
    .toBuffer({ resolveWithObject: true });
}
