/* Filters, order and hints of the claims on the front page; and on every page, boxes that scroll take the keyboard. */
(() => {
  "use strict";

  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  /* Rows of a picture stand one below the other: place those that are shown, and give the picture its height. */
  function place(svg) {
    let y = 26;
    for (const item of all(".claim-head, .claim-row", svg)) {
      if (item.style.display === "none") continue;
      item.setAttribute("transform", `translate(0,${y})`);
      y += Number(item.dataset.height);
    }
    const width = svg.viewBox.baseVal.width;
    svg.setAttribute("viewBox", `0 0 ${width} ${y}`);
  }

  function filters(form, table) {
    const rows = all("tbody tr", table);
    const chosen = (item, data) =>
      (!data.get("section") || item.dataset.section === data.get("section")) &&
      (!data.get("verdict") || item.dataset.verdict === data.get("verdict"));

    function apply() {
      const data = new FormData(form);
      rows.forEach((row) => { row.hidden = !chosen(row, data); });
      for (const svg of all(".claims-picture.wide, .claims-picture.narrow")) {
        const links = all(".claim-row", svg);
        links.forEach((link) => { link.style.display = chosen(link, data) ? "" : "none"; });
        for (const head of all(".claim-head", svg)) {
          const some = links.some((link) => link.style.display === "" && link.dataset.section === head.dataset.section);
          head.style.display = some ? "" : "none";
        }
        place(svg);
      }
      const shown = rows.filter((row) => !row.hidden).length;
      form.querySelector("output").value = `${shown} of ${rows.length} claims`;
    }

    function sort(key) {
      const number = { order: "order", verdict: "rank" }[key];
      const compare = (a, b) => (number
        ? a.dataset[number] - b.dataset[number] || a.dataset.order - b.dataset.order
        : a.dataset.claim.localeCompare(b.dataset.claim));
      rows.sort(compare).forEach((row) => row.parentNode.append(row));
      for (const head of all("th[data-sort]", table)) {
        if (head.dataset.sort === key) head.setAttribute("aria-sort", "ascending");
        else head.removeAttribute("aria-sort");
      }
      form.elements.sort.value = key;
    }

    for (const head of all("th[data-sort]", table)) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = `Sort by ${head.textContent === "§" ? "section" : head.textContent}`;
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(head.dataset.sort));
      head.append(button);
    }
    form.addEventListener("change", (event) => (event.target.name === "sort" ? sort(event.target.value) : apply()));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    apply();
  }

  /* A row's statement, seeds, control and link, beside it while a pointer or the keyboard is on it. Escape closes it. */
  function hints(figure, hint, data) {
    const add = (parent, name, text) => {
      const element = document.createElement(name);
      element.textContent = text;
      parent.append(element);
      return element;
    };

    function show(row) {
      const claim = data[row.dataset.claim];
      hint.replaceChildren();
      add(add(hint, "p", ""), "strong", `${row.dataset.claim}: ${claim.verdict}`);
      add(hint, "p", claim.statement);
      const list = document.createElement("dl");
      const more = claim.conditions > 1 ? `this number is one of ${claim.conditions} conditions` : "";
      for (const [name, value] of [["paper", claim.paper], ["ours", claim.ours], ["seeds", claim.seeds],
        ["control", claim.control], ["rule", more]]) {
        if (value) { add(list, "dt", name); add(list, "dd", value); }
      }
      hint.append(list);
      const link = add(hint, "a", "Every seed, rule, record and command");
      link.href = row.getAttribute("href");
      link.tabIndex = -1; /* the row itself is the same link */
      hint.hidden = false;
      const place = row.getBoundingClientRect(), outer = figure.getBoundingClientRect();
      const left = Math.min(0.28 * outer.width, outer.width - hint.offsetWidth);
      hint.style.left = `${Math.max(0, left)}px`;
      const below = place.bottom - outer.top + 2;
      const room = place.bottom + hint.offsetHeight + 8 < window.innerHeight;
      hint.style.top = `${room ? below : Math.max(0, place.top - outer.top - hint.offsetHeight - 2)}px`;
    }

    let leaving = 0;
    const hide = () => { hint.hidden = true; };
    const hideSoon = () => { leaving = window.setTimeout(hide, 200); };
    const stay = () => window.clearTimeout(leaving);
    for (const row of all(".claim-row", figure)) {
      row.querySelector("title")?.remove(); /* or the browser shows its own hint over this one */
      row.addEventListener("mouseenter", () => { stay(); show(row); });
      row.addEventListener("focus", () => { stay(); show(row); });
      row.addEventListener("mouseleave", hideSoon);
      row.addEventListener("blur", hideSoon);
    }
    hint.addEventListener("mouseenter", stay);
    hint.addEventListener("mouseleave", hideSoon);
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  }

  /* A box that scrolls can be scrolled by the keyboard. */
  function reachable() {
    for (const box of all("pre, .table-scroll, .pst-scrollable-table-container, .output, .in-short, div.math, mjx-container")) {
      if (box.scrollWidth > box.clientWidth + 1 && !box.hasAttribute("tabindex")) box.tabIndex = 0;
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const form = document.getElementById("claims-filters"), table = document.getElementById("verdict-table");
    if (form && table) filters(form, table);
    const figure = document.getElementById("claims-figure"), data = document.getElementById("claims-data");
    if (figure && data) hints(figure, document.getElementById("claims-hint"), JSON.parse(data.textContent));
    reachable();
    window.addEventListener("load", () => window.setTimeout(reachable, 500)); /* equations are set late */
    window.addEventListener("resize", reachable);
  });
})();
