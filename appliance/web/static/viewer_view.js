// Where the image lies on the canvas: zoom and pan, and the way from a point of the screen to a pixel and back.

const MOST = 40, LEAST = 0.5; // of the scale: screen pixels for a pixel, and shares of the scale that fits

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.columns = this.rows = this.aspect = 1; // aspect: how much taller than wide a pixel is
    this.fitted = true;
  }

  /** The size of the image, whose pixels may not be square. What is seen stays, if it is the same image. */
  measure(rows, columns, aspect) {
    const factor = columns / this.columns;
    Object.assign(this, { rows, columns, aspect });
    if (this.fitted) this.fit();
    else this.scale /= factor;
  }

  get tall() { return this.rows * this.aspect; }
  get fitting() { return Math.min(this.canvas.width / this.columns, this.canvas.height / this.tall); }

  fit() {
    this.scale = this.fitting;
    this.left = (this.canvas.width - this.columns * this.scale) / 2;
    this.top = (this.canvas.height - this.tall * this.scale) / 2;
    this.fitted = true;
  }

  /** One pixel of the image for one of the screen. */
  actual() {
    this.zoom(1 / this.scale, this.canvas.width / 2, this.canvas.height / 2);
  }

  /** Around a point of the canvas, which stays where it is. */
  zoom(factor, x, y) {
    const scale = Math.min(Math.max(this.scale * factor, Math.min(this.fitting * LEAST, 1)), Math.max(MOST, this.fitting));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.keep();
  }

  pan(x, y) {
    this.left += x;
    this.top += y;
    this.fitted = false;
    this.keep();
  }

  /** A part of the image stays on the canvas, however far it is pushed. */
  keep() {
    const wide = this.columns * this.scale, tall = this.tall * this.scale, part = 0.2;
    this.left = Math.min(Math.max(this.left, (part - 1) * wide), this.canvas.width - part * wide);
    this.top = Math.min(Math.max(this.top, (part - 1) * tall), this.canvas.height - part * tall);
  }

  /** A point of the canvas -> column and row of the image, with fractions. */
  pixel(x, y) {
    return [(x - this.left) / this.scale, (y - this.top) / (this.scale * this.aspect)];
  }

  /** And back. */
  point(column, row) {
    return [this.left + column * this.scale, this.top + row * this.scale * this.aspect];
  }

  /** Draw a picture, or a part of it, over all of the image. */
  draw(context, picture, part = [0, 0, picture.width, picture.height]) {
    context.imageSmoothingEnabled = this.scale < 8;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, ...part, this.left, this.top, this.columns * this.scale, this.tall * this.scale);
  }
}
