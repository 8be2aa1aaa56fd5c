// The values of an image at their full depth, and what they look like through a window (PS3.3 section C.11.2).

const MOST_KEPT = 256e6; // bytes of slices

export class Pixels {
  /** description: as appliance.viewing.Description. */
  constructor(study, description) {
    this.study = study;
    this.description = description;
    this.kept = new Map(); // number of a slice -> promise of its stored numbers
    this.ready = new Map(); // number of a slice -> its stored numbers
  }

  static async load(study) {
    const answer = await fetch(`/study/${study}/pixels.json`);
    if (!answer.ok) throw new Error(`${answer.status}`);
    return new Pixels(study, await answer.json());
  }

  slice(number) {
    if (!this.kept.has(number)) {
      const { rows, columns, signed } = this.description;
      while (this.kept.size * rows * columns * 2 > MOST_KEPT) {
        const [oldest] = this.kept.keys();
        this.kept.delete(oldest);
        this.ready.delete(oldest);
      }
      this.kept.set(number, fetch(`/study/${this.study}/pixels/${number}.raw`).then(async (answer) => {
        if (!answer.ok) throw new Error(`${answer.status}`);
        const bytes = await answer.arrayBuffer();
        if (bytes.byteLength !== rows * columns * 2) throw new Error("another number of pixels than was said");
        const stored = signed ? new Int16Array(bytes) : new Uint16Array(bytes);
        this.ready.set(number, stored);
        return stored;
      }).catch((error) => {
        this.kept.delete(number);
        throw error;
      }));
    }
    return this.kept.get(number);
  }

  /** The value at a pixel, in the image's own unit; null where it is not there yet, or outside. */
  value(number, row, column) {
    const { rows, columns, slope, intercept } = this.description;
    const stored = this.ready.get(number);
    if (!stored || row < 0 || column < 0 || row >= rows || column >= columns) return null;
    return stored[row * columns + column] * slope + intercept;
  }
}

/** Brightness in [0, 1] of a value through a window with its function. */
export function brightness(value, { center, width, function: name }) {
  if (name === "SIGMOID") return 1 / (1 + Math.exp((-4 * (value - center)) / width));
  // LINEAR has its ends at pixel centers: the equations of C.11.2.1.2.1, and of C.11.2.1.3.2 for LINEAR_EXACT.
  if (name === "LINEAR_EXACT") return clamp((value - center) / width + 0.5);
  return width > 1 ? clamp((value - (center - 0.5)) / (width - 1) + 0.5) : value > center - 0.5 ? 1 : 0;
}

/** Brightness of a value through a VOI LUT; below and above it are its first and last entry. */
export function looked_up(value, { first, bits, values }) {
  const place = Math.min(Math.max(Math.round(value) - first, 0), values.length - 1);
  return clamp(values[place] / (2 ** bits - 1));
}

const clamp = (share) => Math.min(Math.max(share, 0), 1);

/** What each stored number becomes: RGBA of 32 bits, by the number's 16 bits without sign. */
export function table({ signed, slope, intercept }, of, inverted) {
  const found = new Uint32Array(65536);
  const shade = of.values ? looked_up : brightness;
  for (let bits = 0; bits < 65536; bits++) {
    const stored = signed && bits >= 32768 ? bits - 65536 : bits;
    const share = shade(stored * slope + intercept, of);
    const gray = Math.round((inverted ? 1 - share : share) * 255);
    found[bits] = 0xff000000 | (gray << 16) | (gray << 8) | gray;
  }
  return found;
}

/** Paint stored numbers, each stride-th of a row and a column, into the pixels of a canvas. */
export function paint(canvas, stored, { rows, columns }, colors, stride = 1) {
  const wide = Math.ceil(columns / stride), tall = Math.ceil(rows / stride);
  if (canvas.width !== wide || canvas.height !== tall) Object.assign(canvas, { width: wide, height: tall });
  const context = canvas.getContext("2d", { alpha: false });
  const picture = context.createImageData(wide, tall);
  const out = new Uint32Array(picture.data.buffer);
  const numbers = new Uint16Array(stored.buffer); // the same bits
  if (stride === 1) for (let place = 0; place < out.length; place++) out[place] = colors[numbers[place]];
  else for (let row = 0, place = 0; row < rows; row += stride)
    for (let at = row * columns, end = at + columns; at < end; at += stride) out[place++] = colors[numbers[at]];
  context.putImageData(picture, 0, 0);
}
