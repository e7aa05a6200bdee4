// A file's bytes -> rows of its pixels, as near to what training was given as a browser comes.
//
// No rotation by EXIF, no colour profile, transparency dropped. What remains different from Python's decoder is said in
// README.md.

const ROWS = 256; // that are read from the canvas at once, at most

const KINDS = [
  ["JPEG", [".jpg", ".jpeg", ".jpe", ".jfif"], (b) => b[0] === 0xff && b[1] === 0xd8],
  ["PNG", [".png"], (b) => b[0] === 0x89 && b[1] === 0x50 && b[2] === 0x4e && b[3] === 0x47],
  ["GIF", [".gif"], (b) => b[0] === 0x47 && b[1] === 0x49 && b[2] === 0x46],
  ["WEBP", [".webp"], (b) => b[0] === 0x52 && b[1] === 0x49 && b[8] === 0x57 && b[9] === 0x45],
  ["BMP", [".bmp"], (b) => b[0] === 0x42 && b[1] === 0x4d],
];

/**
 * @returns {Promise<object>} `width`, `height`, `warning`, `transparent`; `rows(first, end)` gives (end - first) x width x 3
 *   bytes of RGB; `close()` lets go of it.
 */
export async function decode(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (!bytes.length) throw new Error("empty file");
  const kind = KINDS.find(([, , fits]) => fits(bytes));
  const upright = kind?.[0] === "JPEG" ? withoutExif(bytes) : [bytes];
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob(upright, { type: file.type }), {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error("not an image, or of a format that this browser does not read");
  }
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, Math.min(height, ROWS));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy";
  context.imageSmoothingEnabled = false;

  const suffix = /\.[^./\\]+$/.exec(file.name.toLowerCase())?.[0];
  const misnamed = kind && KINDS.some(([, suffixes]) => suffixes.includes(suffix)) && !kind[1].includes(suffix);
  return {
    width,
    height,
    transparent: false, // known when all rows have been read
    warning: misnamed ? `named ${suffix} but holds ${kind[0]}` : null,
    rows(first, end) {
      const found = new Uint8Array((end - first) * width * 3);
      for (let top = first; top < end; top += ROWS) {
        const count = Math.min(ROWS, end - top);
        context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
        const { data } = context.getImageData(0, 0, width, count);
        let to = (top - first) * width * 3;
        for (let from = 0; from < data.length; from += 4) {
          found[to++] = data[from];
          found[to++] = data[from + 1];
          found[to++] = data[from + 2];
          if (data[from + 3] !== 255) this.transparent = true;
        }
      }
      return found;
    },
    close: () => bitmap.close(),
  };
}

/** A JPEG in pieces, without the segments that hold EXIF: browsers would turn the picture by it, training did not. */
function withoutExif(bytes) {
  const kept = [];
  let start = 0;
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    const end = at + 2 + (bytes[at + 2] << 8) + bytes[at + 3];
    if (bytes[at + 1] === 0xe1) {
      kept.push(bytes.subarray(start, at));
      start = end;
    }
    at = end;
  }
  return [...kept, bytes.subarray(start)];
}
