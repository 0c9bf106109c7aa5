/* Networks of Section 3 in the browser: 8-bit weights, whole sums, and what follows from their logits.

The arithmetic is that of kdrepro/publishing/play.py, number by number. Scripts made from the published weights hand
their networks to `kdrepro.takeNet`, and the test images to `kdrepro.takeImages`. Nothing is fetched from elsewhere. */
(() => {
  "use strict";

  const LEVELS = 4095;
  const ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
  const VALUES = new Uint8Array(128);
  [...ALPHABET].forEach((character, value) => { VALUES[character.charCodeAt(0)] = value; });
  const here = document.currentScript.src.replace(/[^/]*$/, "");

  /* Five characters of 85 are four bytes. */
  function decode(text) {
    const bytes = new Uint8Array((text.length / 5) * 4);
    for (let i = 0, at = 0; i < text.length; i += 5, at += 4) {
      let word = 0;
      for (let k = 0; k < 5; k++) word = word * 85 + VALUES[text.charCodeAt(i + k)];
      bytes[at] = word >>> 24; bytes[at + 1] = word >>> 16; bytes[at + 2] = word >>> 8; bytes[at + 3] = word;
    }
    return bytes;
  }

  const parts = new Map(), nets = new Map();
  let images = null;

  function takeNet(part) {
    const these = parts.get(part.name) || [];
    these[part.part] = part;
    parts.set(part.name, these);
    if (these.filter(Boolean).length < part.parts) return;
    const { widths, scales, biases } = these[0];
    const all = new Int8Array(decode(these.map((one) => one.data).join("")).buffer);
    let start = 0;
    const layers = scales.map((scale, i) => {
      const weights = all.subarray(start, start += widths[i] * widths[i + 1]);
      return { weights, scales: scale, biases: biases[i], outputs: widths[i + 1] };
    });
    parts.delete(part.name);
    nets.set(part.name, layers);
  }

  function takeImages(these) {
    const bytes = decode(these.images);
    images = these.labels.map((label, i) => (
      { label, case: these.cases[i], pixels: bytes.subarray(784 * i, 784 * (i + 1)) }));
  }

  const loading = new Map();

  function script(name) {
    if (!loading.has(name)) {
      loading.set(name, new Promise((resolve, reject) => {
        const element = document.createElement("script");
        element.src = here + name;
        element.onload = resolve;
        element.onerror = () => { loading.delete(name); reject(new Error(`${name} could not be loaded`)); };
        document.head.append(element);
      }));
    }
    return loading.get(name);
  }

  /* The layers of a network that is made of so many scripts; loaded once. */
  async function net(name, files) {
    if (!nets.has(name)) await Promise.all(Array.from({ length: files }, (_, i) => script(`${name}.${i}.js`)));
    return nets.get(name);
  }

  let makeHands = null;

  /* Stored drawings: strokes of ten digits by style. */
  async function hands() {
    if (!makeHands) await script("hands.js");
    return makeHands();
  }

  async function testImages() {
    if (!images) await script("images.js");
    return images;
  }

  /* Logits of 784 pixels from 0 to 255. */
  function logits(layers, pixels) {
    let inputs = pixels, step = 1 / 255, values;
    for (const { weights, scales, biases, outputs } of layers) {
      const sums = new Int32Array(outputs);
      for (let j = 0, row = 0; j < inputs.length; j++, row += outputs) {
        const x = inputs[j];
        if (x === 0) continue;
        for (let i = 0; i < outputs; i++) sums[i] += weights[row + i] * x;
      }
      values = Float64Array.from(sums, (sum, i) => sum * (scales[i] * step) + biases[i]);
      const largest = values.reduce((a, b) => Math.max(a, b), 0);
      step = (largest > 0 ? largest : 1) / LEVELS;
      const unit = step;
      inputs = Int32Array.from(values, (value) => Math.floor(Math.max(value, 0) / unit + 0.5));
    }
    return values;
  }

  /* Eq. 1. */
  function soften(z, temperature) {
    const largest = Math.max(...z);
    const powers = Array.from(z, (value) => Math.exp((value - largest) / temperature));
    const total = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / total);
  }

  /* The length of Eq. 2: of the gradient of the soft targets' loss with respect to the student's logits. */
  function gradient(student, teacher, temperature) {
    const q = soften(student, temperature), p = soften(teacher, temperature);
    return Math.hypot(...q.map((value, i) => value - p[i])) / temperature;
  }

  window.kdrepro = { takeNet, takeImages, takeHands: (made) => { makeHands = made; }, net, testImages, hands, logits, soften, gradient };
})();
