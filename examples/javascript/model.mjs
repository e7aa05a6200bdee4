// An exported model, asked about pixels. `ort` is onnxruntime-node or onnxruntime-web: both examples share this file.
//
// The model resizes and scales the pixels itself: they go in as the decoder gives them, bytes of RGB, (N, height, width,
// 3). There is no preprocessing to repeat.

/**
 * @param ort the runtime.
 * @param model a path, an address or the file's bytes, as the runtime takes them.
 * @param manifest the JSON beside the model: it has the threshold, which runtimes in JavaScript do not give.
 */
export async function openModel(ort, model, manifest) {
  const session = await ort.InferenceSession.create(model);
  const threshold = Math.fround(manifest.model.decision_threshold);
  return {
    threshold,
    /** Strictly above the threshold is REAL. */
    verdictOf: (probReal) => (Math.fround(probReal) > threshold ? "REAL" : "AI"),
    /** `count` images of one size, one behind the other -> {probReal, logit} of each. */
    async ask(data, height, width, count = 1) {
      const images = new ort.Tensor("uint8", data, [count, height, width, 3]);
      const { prob_real, logit } = await session.run({ images });
      return Array.from({ length: count }, (_, at) => ({ probReal: prob_real.data[at], logit: logit.data[at] }));
    },
  };
}
