/* The playground: a digit is drawn or picked, and each network says what it sees, at a temperature and with a shift. */
(() => {
  "use strict";

  const { net, testImages, logits, soften, gradient } = window.kdrepro;
  const BOX = 20, FIELD = 28, CENTRE = 14.5, PEN = 2.3; /* pixels: as MNIST's digits lie in their images */
  const percent = (p) => (p > 0.9995 ? "99.9+ %" : p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);
  const raised = (digits) => [...digits].map((digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])).join("");
  const plain = (x) => (x >= 0.001 || x === 0 ? x.toPrecision(2) : x.toExponential(1).replace(/e(.*)/, (_, power) => ` × 10${raised(power)}`));

  function make(tag, attributes = {}, ...inside) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in element && name !== "list") element[name] = value; else element.setAttribute(name, value);
    }
    element.append(...inside);
    return element;
  }

  /* Strokes [[x, y], …] in any units to 28 × 28 pixels: the longer side 20 of them, the centre of mass in the middle. */
  function rendered(strokes) {
    const points = strokes.flat(), canvas = make("canvas", { width: FIELD, height: FIELD });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const [xs, ys] = [0, 1].map((i) => points.map((point) => point[i]));
    const [left, top] = [Math.min(...xs), Math.min(...ys)];
    const longest = Math.max(Math.max(...xs) - left, Math.max(...ys) - top);
    const scale = longest > 0 ? (BOX - PEN) / longest : 1;
    let shift = [PEN / 2, PEN / 2], pixels;
    for (const turn of [0, 1]) {
      context.fillStyle = "#000";
      context.fillRect(0, 0, FIELD, FIELD);
      Object.assign(context, { strokeStyle: "#fff", lineWidth: PEN, lineCap: "round", lineJoin: "round" });
      for (const stroke of strokes) {
        context.beginPath();
        const at = ([x, y]) => [(x - left) * scale + shift[0], (y - top) * scale + shift[1]];
        context.moveTo(...at(stroke[0]));
        stroke.slice(1).forEach((point) => context.lineTo(...at(point)));
        if (stroke.length === 1) context.lineTo(...at(stroke[0]).map((value) => value + 0.01));
        context.stroke();
      }
      const { data } = context.getImageData(0, 0, FIELD, FIELD);
      pixels = Uint8Array.from({ length: FIELD * FIELD }, (_, i) => data[4 * i]);
      const mass = pixels.reduce((a, b) => a + b, 0) || 1;
      const mean = (of) => pixels.reduce((sum, value, i) => sum + value * (of(i) + 0.5), 0) / mass;
      if (turn === 0) shift = [shift[0] + CENTRE - mean((i) => i % FIELD), shift[1] + CENTRE - mean((i) => Math.floor(i / FIELD))];
    }
    return pixels;
  }

  function paint(canvas, pixels) {
    Object.assign(canvas, { width: FIELD, height: FIELD });
    const context = canvas.getContext("2d"), image = context.createImageData(FIELD, FIELD);
    pixels.forEach((value, i) => { image.data.set([255 - value, 255 - value, 255 - value, 255], 4 * i); });
    context.putImageData(image, 0, 0);
    return canvas;
  }

  /* A pen for pointers, and for the keyboard: arrows move it, the space bar puts it down and lifts it. */
  function drawing(canvas, changed) {
    const size = 280, strokes = [], pen = { x: size / 2, y: size / 2, down: false, seen: false };
    const context = canvas.getContext("2d");
    let current = null;

    function redraw() {
      const style = getComputedStyle(canvas);
      context.clearRect(0, 0, size, size);
      Object.assign(context, { strokeStyle: style.color, lineWidth: 22, lineCap: "round", lineJoin: "round" });
      for (const stroke of strokes) {
        context.beginPath();
        context.moveTo(...stroke[0]);
        stroke.forEach((point) => context.lineTo(...point));
        if (stroke.length === 1) context.lineTo(stroke[0][0] + 0.1, stroke[0][1]);
        context.stroke();
      }
      if (!pen.seen) return;
      Object.assign(context, { lineWidth: pen.down ? 5 : 2 });
      context.beginPath();
      context.arc(pen.x, pen.y, 13, 0, 2 * Math.PI);
      context.stroke();
    }

    function add(x, y, fresh) {
      if (fresh || !current) { current = []; strokes.push(current); }
      current.push([x, y]);
      redraw();
      changed(strokes);
    }

    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * size / box.width, (event.clientY - box.top) * size / box.height];
    };
    let pointing = false;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointing = true;
      pen.seen = false;
      add(...at(event), true);
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => { if (pointing) add(...at(event), false); });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { pointing = false; current = null; });
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
      const move = moves[event.key];
      if (!move && event.key !== " ") return;
      event.preventDefault();
      pen.seen = true;
      if (move) [pen.x, pen.y] = [pen.x + move[0], pen.y + move[1]].map((v) => Math.min(size - 11, Math.max(11, v)));
      else { pen.down = !pen.down; current = null; }
      if (pen.down) add(pen.x, pen.y, false);
      redraw();
    });
    canvas.addEventListener("blur", () => { pen.seen = false; pen.down = false; current = null; redraw(); });
    new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return {
      clear() { strokes.length = 0; current = null; redraw(); },
      show(given) { strokes.splice(0, strokes.length, ...given); current = null; redraw(); },
    };
  }

  function card(name, title) {
    const bars = make("div", { className: "play-bars", role: "img" });
    const columns = Array.from({ length: 10 }, (_, digit) => {
      const bar = make("i");
      bars.append(make("span", {}, bar, make("b", {}, String(digit))));
      return bar;
    });
    const answer = make("p", { className: "play-answer" }, "–");
    const element = make("section", { className: "play-card" }, make("h3", {}, title), answer, bars);
    element.dataset.net = name;
    element.style.setProperty("--net", `var(--net-${name.split(".")[1]})`);
    return {
      element,
      say(p) {
        const best = p.indexOf(Math.max(...p));
        answer.textContent = `${best}, ${percent(p[best])}`;
        columns.forEach((bar, digit) => {
          bar.style.height = `${100 * p[digit]}%`;
          bar.parentElement.classList.toggle("best", digit === best);
        });
        const rest = p.map((value, digit) => [value, digit]).sort((a, b) => b[0] - a[0]).slice(0, 3);
        bars.setAttribute("aria-label", `${title}: ${rest.map(([value, digit]) => `${digit} ${percent(value)}`).join(", ")}`);
        return `${title} says ${best} with ${percent(p[best])}`;
      },
      fail(text) { answer.textContent = text; },
      empty() {
        answer.textContent = "–";
        columns.forEach((bar) => { bar.style.height = "0"; bar.parentElement.classList.remove("best"); });
        bars.setAttribute("aria-label", `${title}: no digit yet`);
      },
    };
  }

  /* How long the soft gradient of the plain net is, over the temperature, as it is and times T². */
  function gradientCurves(svg, said) {
    const temperatures = Array.from({ length: 61 }, (_, i) => 10 ** (i / 30 - 0.3));
    const place = (t) => 40 + 240 * (Math.log10(t) + 0.3) / 2, low = -6, high = 2;
    const height = (g) => 150 - 130 * (Math.min(high, Math.max(low, Math.log10(g))) - low) / (high - low);
    return (student, teacher, temperature) => {
      const line = (of) => temperatures.map((t) => `${place(t).toFixed(1)},${height(of(t)).toFixed(1)}`).join(" ");
      const without = (t) => gradient(student, teacher, t), times = (t) => t * t * gradient(student, teacher, t);
      svg.querySelector(".without").setAttribute("points", line(without));
      svg.querySelector(".times").setAttribute("points", line(times));
      for (const [name, of] of [["without", without], ["times", times]]) {
        const dot = svg.querySelector(`circle.${name}`);
        dot.setAttribute("cx", place(temperature));
        dot.setAttribute("cy", height(of(temperature)));
      }
      said.textContent = `At T = ${temperature.toPrecision(3)} the gradient's length is ${plain(without(temperature))} as it is, and ${plain(times(temperature))} times T². At T = 1 it is ${plain(without(1))}.`;
    };
  }

  function start(root) {
    const list = [...root.querySelectorAll(".play-nets li")];
    const nets = list.map((item) => ({
      name: item.dataset.net, files: Number(item.dataset.files), title: item.querySelector("strong").textContent,
      layers: null, z: null, wanted: true,
    }));
    const find = (selector) => root.querySelector(selector);
    const cards = find(".play-cards"), live = find(".play-live"), preview = find(".play-preview");
    for (const one of nets) {
      one.card = card(one.name, one.title);
      one.card.empty();
      cards.append(one.card.element);
      const box = make("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => { one.wanted = box.checked; one.card.element.hidden = !box.checked; update(); });
      const item = list.find((each) => each.dataset.net === one.name), label = make("label", {}, box, " ");
      label.append(...item.childNodes);
      item.append(label);
    }
    const byName = (name) => nets.find((one) => one.name === name && one.wanted && one.z);
    const temperature = find("#play-t"), bias3 = find("#play-3"), bias78 = find("#play-78");
    const curves = gradientCurves(find(".play-gradient svg"), find(".play-said"));
    let pixels = null, asked = 0, talking = 0;

    /* What a network says once its biases are shifted. */
    function shifted(one) {
      const z = Array.from(one.z);
      if (one.name === "mnist.omit3") z[3] += Number(bias3.value);
      if (one.name === "mnist.only78") z.forEach((_, i) => { if (i !== 7 && i !== 8) z[i] += Number(bias78.value); });
      return z;
    }

    function show() {
      const t = 10 ** Number(temperature.value);
      find("#play-t-out").value = t.toPrecision(3);
      find("#play-3-out").value = Number(bias3.value).toFixed(1);
      find("#play-78-out").value = Number(bias78.value).toFixed(1);
      temperature.setAttribute("aria-valuetext", `T = ${t.toPrecision(3)}`);
      const said = nets.filter((one) => one.wanted && one.z).map((one) => one.card.say(soften(shifted(one), t)));
      const [student, teacher] = [byName("mnist.plain"), byName("mnist.teacher")];
      find(".play-gradient").hidden = !(student && teacher);
      if (student && teacher) curves(student.z, teacher.z, t);
      window.clearTimeout(talking);
      talking = window.setTimeout(() => { live.textContent = said.length ? `${said.join("; ")}.` : ""; }, 500);
      return said;
    }

    async function update() {
      if (!pixels) return;
      const mine = ++asked, input = pixels;
      root.classList.add("started");
      paint(preview, input);
      await Promise.all(nets.filter((one) => one.wanted).map(async (one) => {
        if (!one.layers) {
          one.card.fail("loading …");
          try { one.layers = await net(one.name, one.files); }
          catch (error) { one.card.fail(`${error.message}: is the site whole?`); return; }
        }
        if (mine === asked) one.z = logits(one.layers, input);
      }));
      if (mine === asked) show();
    }

    let waiting = 0;
    const pad = drawing(find(".play-pad"), (strokes) => {
      pixels = rendered(strokes);
      note("");
      window.cancelAnimationFrame(waiting);
      waiting = window.requestAnimationFrame(update);
    });
    const note = (text) => { find(".play-note").textContent = text; };

    function clear() {
      pad.clear();
      pixels = null;
      asked++;
      nets.forEach((one) => { one.z = null; one.card.empty(); });
      find(".play-gradient").hidden = true;
      paint(preview, new Uint8Array(784));
      note("");
    }

    function pick(image) {
      pad.clear();
      pixels = image.pixels;
      note(`Test image ${image.case}, labelled ${image.label}`);
      update();
    }

    /* Images as buttons, one stop for the tabulator key, arrows from one to the next. */
    function gallery(place, images, caption) {
      const buttons = images.map((image) => {
        const button = make("button", { type: "button" }, paint(make("canvas"), image.pixels), ...caption(image));
        button.setAttribute("aria-label", `Test image ${image.case}, a ${image.label}`);
        button.tabIndex = -1;
        button.addEventListener("click", () => pick(image));
        button.addEventListener("focus", () => { buttons.forEach((each) => { each.tabIndex = each === button ? 0 : -1; }); });
        return button;
      });
      if (buttons.length) buttons[0].tabIndex = 0;
      place.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const now = buttons.indexOf(document.activeElement);
        if (!step || now < 0) return;
        event.preventDefault();
        const next = buttons[(now + step + buttons.length) % buttons.length];
        next.focus();
        next.click();
      });
      place.replaceChildren(...buttons);
    }

    const opened = find(".play-images");
    opened?.addEventListener("toggle", async () => {
      if (opened.open) gallery(opened.querySelector(".play-gallery"), await testImages(), () => []);
    }, { once: true });
    find(".play-twos")?.addEventListener("click", async () => {
      const of = nets.find((one) => one.name === "mnist.teacher");
      const [images, layers] = await Promise.all([testImages(), net(of.name, of.files)]);
      const odds = (image) => { const z = logits(layers, image.pixels); return (z[3] - z[7]) / Math.LN10; };
      const twos = images.filter((image) => image.label === 2).map((image) => ({ ...image, odds: odds(image) }));
      twos.sort((a, b) => b.odds - a.odds);
      gallery(find(".play-twos-gallery"), twos, (image) => [image.odds.toFixed(1).replace("-", "−")]);
    });
    document.querySelector(".play-hands")?.addEventListener("click", async () => {
      const table = document.querySelector(".play-hands-table");
      const [hands] = await Promise.all([window.kdrepro.hands(), ...nets.map(async (one) => { one.layers = await net(one.name, one.files); })]);
      const rows = Object.entries(hands).map(([style, digits]) => {
        const cells = nets.map((one) => {
          const wrong = digits.filter(({ digit, strokes }) => {
            const z = logits(one.layers, rendered(strokes));
            return z.indexOf(Math.max(...z)) !== digit;
          });
          const text = wrong.length ? `${digits.length - wrong.length}, not ${wrong.map((each) => each.digit).join(", ")}` : `all ${digits.length}`;
          return make("td", {}, text);
        });
        return make("tr", {}, make("th", { scope: "row" }, style), ...cells);
      });
      const head = make("tr", {}, make("th", { scope: "col" }, "hand"), ...nets.map((one) => make("th", { scope: "col" }, one.title)));
      table.replaceChildren(make("table", { className: "dataframe" }, make("thead", {}, head), make("tbody", {}, ...rows)));
    });
    find(".play-clear").addEventListener("click", clear);
    [temperature, bias3, bias78].forEach((slider) => slider.addEventListener("input", show));
    for (const button of root.querySelectorAll("[data-set]")) {
      button.addEventListener("click", () => {
        const [id, value] = button.dataset.set.split("=");
        find(`#${id}`).value = value;
        show();
      });
    }
    find(".play-body").hidden = false;
    Object.assign(window.kdrepro, { rendered, play: { pad, nets, pick, show } });
  }

  const root = document.getElementById("play");
  if (root?.querySelector(".play-nets li")) start(root);
})();
