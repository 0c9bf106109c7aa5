/* Digits drawn by hand in several styles, as strokes of points in a field of 100 × 100; curves go through the points. */
(() => {
  "use strict";

  const STYLES = {
    round: [
      "50,8 26,20 18,50 28,82 50,92 72,80 82,50 74,20 50,8",
      "50,8 50,92",
      "24,28 38,10 62,10 74,28 66,48 42,70 22,90 | 22,90 50,86 80,90",
      "24,16 48,8 70,18 70,36 46,46 | 46,46 72,56 76,76 56,92 24,86",
      "58,8 40,36 20,62 50,62 82,60 | 64,40 62,92",
      "30,10 28,42 50,38 72,50 74,72 54,92 24,84 | 30,10 74,8",
      "64,8 40,32 26,62 36,88 60,90 70,70 54,56 30,66",
      "20,12 50,10 80,12 | 80,12 60,48 44,92",
      "64,16 44,8 30,22 40,42 62,56 70,78 50,92 30,80 38,58 60,42 70,24 64,16",
      "70,30 56,10 34,14 28,36 44,50 66,40 70,30 | 70,30 68,60 60,92",
    ],
    angular: [
      "40,10 18,30 18,72 40,92 64,92 82,70 82,30 62,10 40,10",
      "30,30 52,8 52,92",
      "22,20 50,8 78,22 78,40 20,92 82,92",
      "20,12 78,12 46,44 76,60 70,88 22,90",
      "26,8 20,54 80,54 | 62,30 62,92",
      "74,10 30,10 26,44 64,44 78,62 66,90 24,90",
      "58,8 24,54 24,90 70,90 76,62 26,58",
      "18,10 82,10 42,92",
      "30,10 70,10 70,34 30,58 30,92 70,92 70,58 30,34 30,10",
      "72,44 30,44 30,10 72,10 72,92",
    ],
    continental: [
      "50,10 28,24 20,54 34,86 56,90 76,70 78,36 62,12 50,10",
      "22,44 56,8 56,92",
      "26,26 44,8 68,16 68,40 44,70 22,88 30,76 44,84 64,92 80,82",
      "26,14 52,8 66,24 44,44 | 44,44 74,60 64,86 40,94 22,78",
      "44,8 18,58 82,58 | 60,36 56,92",
      "36,12 32,42 58,40 74,60 60,88 26,88 | 36,12 76,14",
      "62,10 34,40 26,70 42,92 66,82 66,62 46,56 28,72",
      "20,16 50,12 78,14 62,50 46,92 | 34,52 74,50",
      "50,46 30,30 44,8 66,16 62,36 50,46 28,66 36,90 62,92 74,70 50,46",
      "68,26 44,10 28,30 44,50 68,30 | 68,26 66,66 46,92 26,84",
    ],
  };

  /* Catmull and Rom's curve through points, a dozen steps from one to the next; straight lines if it is not smooth. */
  function through(points, smooth) {
    if (!smooth || points.length < 3) return points;
    const found = [], at = (i) => points[Math.min(points.length - 1, Math.max(0, i))];
    for (let i = 0; i + 1 < points.length; i++) {
      const [a, b, c, d] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
      for (let t = 0; t < 1; t += 1 / 12) {
        found.push([0, 1].map((k) => 0.5 * (2 * b[k] + (c[k] - a[k]) * t
          + (2 * a[k] - 5 * b[k] + 4 * c[k] - d[k]) * t * t + (3 * b[k] - a[k] - 3 * c[k] + d[k]) * t ** 3)));
      }
    }
    return [...found, at(points.length - 1)];
  }

  const parse = (text, smooth, move) => text.split("|").map((stroke) => (
    through(stroke.trim().split(" ").map((pair) => move(...pair.split(",").map(Number))), smooth)));

  window.kdrepro.takeHands(() => {
    const still = (x, y) => [x, y], slanted = (x, y) => [x + 0.45 * (50 - y), y], wide = (x, y) => [1.7 * x, y];
    const turned = (degrees) => (x, y) => {
      const [c, s] = [Math.cos, Math.sin].map((f) => f(degrees * Math.PI / 180));
      return [50 + c * (x - 50) - s * (y - 50), 50 + s * (x - 50) + c * (y - 50)];
    };
    const of = (style, smooth, move) => STYLES[style].map((text, digit) => ({ digit, strokes: parse(text, smooth, move) }));
    return {
      round: of("round", true, still),
      angular: of("angular", false, still),
      "continental (1 and 7 with a bar)": of("continental", true, still),
      "round, slanted": of("round", true, slanted),
      "round, wide": of("round", true, wide),
      "round, turned by 30° to the right": of("round", true, turned(30)),
      "round, turned by 45° to the left": of("round", true, turned(-45)),
    };
  });
})();
