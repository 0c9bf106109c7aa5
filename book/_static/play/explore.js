/* Explorables in chapters: a slider or two beside the printed figure. Each starts from what the page already shows. */
(() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const { soften, gradient } = window.kdrepro;
  const given = (root) => JSON.parse(root.querySelector("script").textContent);
  const set = (element, attributes) => {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const add = (parent, tag, attributes) => parent.appendChild(set(document.createElementNS(SVG, tag), attributes));

  /* Eq. 1 and the 1/T² law: bars of a teacher's soft targets, and the length of the gradient with and without T². */
  function softening(root) {
    const { teacher, student } = given(root);
    const [slider, output, text] = ["input", "output", ".said"].map((one) => root.querySelector(one));
    const bars = [...root.querySelectorAll(".bars i")];
    function show() {
      const t = 10 ** Number(slider.value), p = soften(teacher, t), g = gradient(student, teacher, t);
      bars.forEach((bar, i) => { bar.style.height = `${100 * p[i]}%`; });
      output.value = t.toPrecision(3);
      slider.setAttribute("aria-valuetext", `T = ${t.toPrecision(3)}`);
      const most = Math.max(...p);
      text.textContent = `The likeliest class has ${(100 * most).toFixed(1)} %, the others ${(100 * (1 - most)).toFixed(most > 0.999 ? 4 : 1)} % together. `
        + `The soft gradient is ${g.toPrecision(2)} long; times T², ${(t * t * g).toPrecision(2)}.`;
    }
    slider.addEventListener("input", show);
    show();
  }

  /* Test errors against the shift of unseen classes, with their minimum. */
  function shifts(root) {
    const { shift, errors, inside, what } = given(root);
    const [slider, output, text] = ["input", "output", ".said"].map((one) => root.querySelector(one));
    const svg = root.querySelector("svg"), box = { left: 44, right: 450, top: 12, bottom: 150 };
    const most = Math.max(...errors), last = shift[shift.length - 1];
    const x = (value) => box.left + (box.right - box.left) * (value - shift[0]) / (last - shift[0]);
    const y = (value) => box.bottom - (box.bottom - box.top) * value / most;
    const dot = add(svg, "circle", { class: "dot", r: 5 });
    const best = errors.indexOf(Math.min(...errors));
    function show() {
      const i = Number(slider.value);
      set(dot, { cx: x(shift[i]), cy: y(errors[i]) });
      output.value = shift[i].toFixed(2);
      slider.setAttribute("aria-valuetext", `a shift of ${shift[i].toFixed(2)}`);
      text.textContent = `${errors[i].toFixed(0)} errors, ${inside[i].toFixed(0)} of them on ${what}; the fewest, ${errors[best].toFixed(0)}, at ${shift[best].toFixed(2)}.`;
    }
    slider.addEventListener("input", show);
    show();
  }

  /* Eq. 5: the q that is nearest to the generalist's p and to what each specialist says of its class and all others. */
  function combined(generalist, specialists) {
    let z = generalist.map(Math.log);
    for (let step = 0; step < 500; step++) {
      const q = soften(z, 1), slope = q.map((value, i) => value - generalist[i]);
      for (const { of, p } of specialists) {
        const off = (q[of] - p) / (1 - q[of]); /* of KL([p, 1 - p] || [q_of, 1 - q_of]), with respect to the logits */
        q.forEach((value, i) => { slope[i] += off * ((i === of) - value); });
      }
      z = z.map((value, i) => value - 0.5 * slope[i]);
    }
    return soften(z, 1);
  }

  /* Three classes as a triangle: a point is a distribution, a specialist's opinion of its class a line. */
  function triangle(root) {
    const { corners } = given(root), svg = root.querySelector("svg");
    const sliders = [...root.querySelectorAll("input")], text = root.querySelector(".said");
    const place = (q) => [0, 1].map((k) => q.reduce((sum, value, i) => sum + value * corners[i][k], 0));
    const line = (of, p) => {
      const [a, b] = [0, 1, 2].filter((i) => i !== of).map((other) => {
        const q = [0, 0, 0];
        q[of] = p;
        q[other] = 1 - p;
        return place(q);
      });
      return { x1: a[0], y1: a[1], x2: b[0], y2: b[1] };
    };
    const value = (i) => Number(sliders[i].value) / 100;
    const opinion = () => {
      const [a, b] = [value(0), value(1) * (1 - value(0))];
      return [a, b, 1 - a - b];
    };
    function show() {
      const g = opinion(), says = [{ of: 0, p: value(2) }, { of: 1, p: value(3) }], q = combined(g, says);
      const dot = (name, at) => set(svg.querySelector(name), { cx: at[0], cy: at[1] });
      dot(".generalist", place(g));
      dot(".answer", place(q));
      set(svg.querySelector(".first"), line(0, value(2)));
      set(svg.querySelector(".second"), line(1, value(3)));
      root.querySelectorAll("output").forEach((output, i) => { output.value = `${Math.round(100 * value(i))} %`; });
      text.textContent = `Together: A ${(100 * q[0]).toFixed(0)} %, B ${(100 * q[1]).toFixed(0)} %, C ${(100 * q[2]).toFixed(0)} %.`;
    }

    /* What is dragged moves its sliders. */
    function drag(name, moved) {
      const element = svg.querySelector(name);
      element.addEventListener("pointerdown", (event) => { element.setPointerCapture(event.pointerId); event.preventDefault(); });
      element.addEventListener("pointermove", (event) => {
        if (!element.hasPointerCapture(event.pointerId)) return;
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        moved(shares(at));
        show();
      });
    }
    const [[ax, ay], [bx, by], [cx, cy]] = corners;
    const whole = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy);
    const shares = ({ x, y }) => {
      const a = ((by - cy) * (x - cx) + (cx - bx) * (y - cy)) / whole;
      const b = ((cy - ay) * (x - cx) + (ax - cx) * (y - cy)) / whole;
      const inside = [a, b, 1 - a - b].map((one) => Math.min(0.98, Math.max(0.01, one)));
      const total = inside.reduce((sum, one) => sum + one);
      return inside.map((one) => one / total);
    };
    drag(".generalist", (q) => { sliders[0].value = 100 * q[0]; sliders[1].value = (100 * q[1]) / (1 - q[0]); });
    drag(".first", (q) => { sliders[2].value = 100 * q[0]; });
    drag(".second", (q) => { sliders[3].value = 100 * q[1]; });
    sliders.forEach((slider) => slider.addEventListener("input", show));
    show();
  }

  const KINDS = { softening, shifts, triangle };
  window.kdrepro.combined = combined;
  for (const root of document.querySelectorAll(".explore")) {
    const start = KINDS[root.dataset.explore];
    if (start) { start(root); root.querySelectorAll(".control").forEach((one) => { one.hidden = false; }); }
  }
})();
