// Is an image AI-generated? Asks a model that `python -m lightning_cifake export` wrote:
//
//     node detect.mjs model.onnx photo.jpg more.png
//
// prints a line an image, as `predict --model` does: path, AI or REAL, P(REAL). The model resizes and scales the pixels
// itself: they go in as the decoder gives them, bytes of RGB, (1, height, width, 3). There is no preprocessing to repeat.

import { readFile } from "node:fs/promises";
import process from "node:process";
import ort from "onnxruntime-node";
import sharp from "sharp";

const [modelPath, ...imagePaths] = process.argv.slice(2);
if (!modelPath || imagePaths.length === 0) {
  console.error("usage: node detect.mjs MODEL.onnx IMAGE...");
  process.exit(2);
}

try {
  // the manifest beside the model has the threshold: onnxruntime-node does not give a model's own metadata
  const manifest = JSON.parse(await readFile(modelPath.replace(/\.onnx$/, ".json"), "utf8"));
  const threshold = Math.fround(manifest.model.decision_threshold);
  const session = await ort.InferenceSession.create(modelPath);
  for (const path of imagePaths) {
    try {
      const { probReal } = await detect(session, path);
      // strictly above is REAL
      console.log(`${path}\t${probReal > threshold ? "REAL" : "AI"}\t${probReal.toFixed(6)}`);
    } catch (error) {
      console.log(`${path}\tERROR\t${String(error.message).split("\n")[0]}`);
      process.exitCode = 1;
    }
  }
} catch (error) {
  console.error(`error: ${String(error.message).split("\n")[0]}`);
  process.exitCode = 2;
}

/** One image file -> { probReal, logit }. */
async function detect(session, path) {
  // no rotation by EXIF, transparency dropped, grey repeated: as in training
  const { data, info } = await sharp(path, { ignoreIcc: true })
    .removeAlpha()
    .toColourspace("srgb")
    .raw()
    .toBuffer({ resolveWithObject: true });
  const images = new ort.Tensor("uint8", data, [1, info.height, info.width, info.channels]);
  const { prob_real, logit } = await session.run({ images });
  return { probReal: prob_real.data[0], logit: logit.data[0] };
}
