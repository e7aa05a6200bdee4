// How far the logit falls where a patch is covered: as lightning_cifake/evaluation/occlusion.py and serve/explanation.py.

const AT_ONCE = 64; // covered copies that are asked about together

/** {data, height, width} -> size x size x 3 bytes: bilinear, half-pixel centres, no antialiasing, whole values. */
export function seen({ data, height, width }, size) {
  const down = weights(height, size);
  const across = weights(width, size);
  const found = new Uint8Array(size * size * 3);
  const value = (y, x, channel) => data[(y * width + x) * 3 + channel];
  down.forEach(([top, bottom, v], y) =>
    across.forEach(([left, right, u], x) => {
      for (let c = 0; c < 3; c += 1) {
        const above = value(top, left, c) * (1 - u) + value(top, right, c) * u;
        const below = value(bottom, left, c) * (1 - u) + value(bottom, right, c) * u;
        found[(y * size + x) * 3 + c] = Math.round(above * (1 - v) + below * v);
      }
    }),
  );
  return found;
}

function weights(length, size) {
  return Array.from({ length: size }, (_, place) => {
    const at = Math.min(Math.max(((place + 0.5) * length) / size - 0.5, 0), length - 1);
    const low = Math.floor(at);
    return [low, Math.min(low + 1, length - 1), at - low];
  });
}

/**
 * Above 0 a pixel speaks for REAL. `ask(data, height, width, count)` gives {logit} of each.
 * @returns {Promise<Float64Array>} size x size
 */
export async function occlusionMap(ask, image, size) {
  const patch = Math.max(1, Math.floor(size / 4));
  const stride = Math.max(1, Math.floor(patch / 4));
  const last = Math.ceil((size - patch) / stride) * stride;
  const places = [];
  for (let y = 0; y <= last; y += stride) for (let x = 0; x <= last; x += stride) places.push([y, x]);
  const colour = [0, 1, 2].map((channel) => {
    let sum = 0;
    for (let at = channel; at < image.length; at += 3) sum += image[at];
    return Math.round(sum / (size * size));
  });
  const [{ logit: whole }] = await ask(image, size, size, 1);
  const falls = new Float64Array(size * size);
  const covered = new Float64Array(size * size);
  const each = (y, x, act) => {
    for (let row = y; row < Math.min(y + patch, size); row += 1) {
      for (let column = x; column < Math.min(x + patch, size); column += 1) act(row * size + column);
    }
  };
  for (let first = 0; first < places.length; first += AT_ONCE) {
    const batch = places.slice(first, first + AT_ONCE);
    const copies = new Uint8Array(batch.length * image.length);
    batch.forEach(([y, x], at) => {
      copies.set(image, at * image.length);
      each(y, x, (pixel) => copies.set(colour, at * image.length + pixel * 3));
    });
    const answers = await ask(copies, size, size, batch.length);
    batch.forEach(([y, x], at) =>
      each(y, x, (pixel) => {
        falls[pixel] += whole - answers[at].logit;
        covered[pixel] += 1;
      }),
    );
  }
  return falls.map((fall, pixel) => fall / covered[pixel]);
}
