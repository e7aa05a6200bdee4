// Puts the page, the model and onnxruntime-web into one folder of static files:
//
//     node build.mjs [MODEL.onnx [FOLDER]]
//
// The page is that of `serve`, as it is. In the place of server.js, through which it asks a server, stands local.mjs,
// which asks a model that runs in the browser.

import { copyFile, cp, mkdir, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const model = process.argv[2] ?? join(root, "checkpoints", "cifake-compact-int8.onnx");
const site = process.argv[3] ?? join(here, "site");
const page = join(root, "lightning_cifake", "serve", "static");
const runtime = join(here, "node_modules", "onnxruntime-web", "dist");
const into = join(site, "static");

try {
  JSON.parse(await readFile(model.replace(/\.onnx$/, ".json"), "utf8"));
  await rm(site, { recursive: true, force: true });
  await mkdir(into, { recursive: true });
  await cp(page, into, { recursive: true });
  await copyFile(join(page, "index.html"), join(site, "index.html"));
  await rm(join(into, "index.html"));
  await copyFile(join(here, "local.mjs"), join(into, "server.js"));
  for (const name of ["decode", "larger", "occlusion"]) await copyFile(join(here, `${name}.mjs`), join(into, `${name}.js`));
  await copyFile(join(here, "..", "javascript", "model.mjs"), join(into, "model.js"));
  await copyFile(join(runtime, "ort.wasm.min.mjs"), join(into, "ort.wasm.min.js"));
  // some servers of files do not know .mjs as a script
  await copyFile(join(runtime, "ort-wasm-simd-threaded.mjs"), join(into, "ort-wasm.js"));
  await copyFile(join(runtime, "ort-wasm-simd-threaded.wasm"), join(into, "ort-wasm.wasm"));
  await copyFile(model, join(into, "model.onnx"));
  await copyFile(model.replace(/\.onnx$/, ".json"), join(into, "model.json"));
  console.log(`written: ${site}`);
} catch (error) {
  console.error(`error: ${String(error.message).split("\n")[0]}`);
  process.exitCode = 2;
}
