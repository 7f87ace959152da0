"use strict";
// Sorts, filters, enlarges. Everything can be read without it; no request leaves the page.
{
  const root = document.documentElement;
  root.classList.add("js");

  // --- tables ---

  const key = (cell) =>
    cell.dataset.number !== undefined ? Number(cell.dataset.number) : cell.dataset.text ?? null;

  // What has no value comes last whichever way; numbers come before texts.
  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a !== typeof b) return typeof a === "number" ? -sign : sign;
    return sign * (typeof a === "number" ? (a > b) - (a < b) : a.localeCompare(b, "en", { numeric: true }));
  }

  function sort(table, column) {
    const heads = [...table.tHead.rows[0].cells];
    const way = heads[column].ariaSort === "ascending" ? "descending" : "ascending";
    heads.forEach((head, i) => (i === column ? head.setAttribute("aria-sort", way) : head.removeAttribute("aria-sort")));
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
    rows.sort((a, b) => compare(a[0], b[0], way === "ascending" ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
  }

  function filter(table, text, count) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      const seen = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => seen.includes(word));
    }
    count.value = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
  }

  function show(table, group) {
    for (const cell of table.querySelectorAll("[data-group]")) cell.hidden = cell.dataset.group !== group;
  }

  for (const section of document.querySelectorAll("section.table")) {
    const table = section.querySelector("table");
    const convention = section.querySelector("select");
    const words = section.querySelector("input");
    const count = section.querySelector("output");
    table.querySelectorAll("button.sort").forEach((button, i) => button.addEventListener("click", () => sort(table, i)));
    words?.addEventListener("input", () => filter(table, words.value, count));
    if (convention) {
      // A reloaded page may remember another choice.
      convention.selectedIndex = 0;
      show(table, convention.value);
      convention.addEventListener("change", () => show(table, convention.value));
    }
  }

  // --- commands ---

  for (const button of document.querySelectorAll("button.copy")) {
    const code = button.parentElement.querySelector("code");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }

  // --- pictures ---

  // Shown larger than it is, an answer keeps its pixels; shown smaller, it must be averaged lest a crack fall between.
  const sizes = new ResizeObserver((entries) => {
    for (const { target: svg } of entries) {
      const { width, height } = svg.getBoundingClientRect();
      const box = svg.viewBox.baseVal;
      svg.classList.toggle("crisp", Math.min(width / box.width, height / box.height) * devicePixelRatio >= 1);
    }
  });
  document.querySelectorAll("svg.picture").forEach((svg) => sizes.observe(svg));

  const viewer = document.getElementById("viewer");
  const stage = viewer.querySelector(".stage");
  let opener = null;
  let shown = null;

  function enlarge(button) {
    shown = button;
    const copy = button.querySelector("svg").cloneNode(true);
    const legend = button.closest("section").querySelector(".legend");
    stage.replaceChildren(copy);
    if (copy.classList.contains("picture")) sizes.observe(copy);
    document.getElementById("viewer-caption").textContent = button.dataset.caption;
    viewer.querySelector(".keys").replaceChildren(
      ...(legend && copy.querySelector(".answer") ? [legend.cloneNode(true)] : []),
    );
    viewer.querySelector("[data-colours]").hidden = !copy.querySelector(".answer");
    for (const step of viewer.querySelectorAll("[data-step]")) step.disabled = !next(step.dataset.step);
  }

  // The picture that a key leads to: left and right through the figure, up and down through one column.
  function next(arrow) {
    const all = [...shown.closest("section").querySelectorAll("button.enlarge")];
    const upright = arrow === "ArrowUp" || arrow === "ArrowDown";
    const way = upright ? all.filter((button) => button.dataset.column === shown.dataset.column) : all;
    return way[way.indexOf(shown) + (arrow === "ArrowLeft" || arrow === "ArrowUp" ? -1 : 1)];
  }

  function step(arrow) {
    const button = next(arrow);
    if (button) enlarge(button);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.enlarge");
    if (!button) return;
    opener = button;
    enlarge(button);
    viewer.showModal();
  });
  viewer.addEventListener("keydown", (event) => {
    if (!/^Arrow(Left|Right|Up|Down)$/.test(event.key) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    step(event.key);
  });
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer || event.target.closest("[data-close]")) viewer.close();
    // The page's own choice cannot be reached while the viewer lies over it.
    if (event.target.closest("[data-colours]")) document.querySelector("[name=colours]:not(:checked)").checked = true;
    const way = event.target.closest("[data-step]");
    if (way) step(way.dataset.step);
  });
  viewer.addEventListener("close", () => {
    stage.replaceChildren();
    opener.focus();
  });

  // --- paper ---

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => closed.forEach((details) => (details.open = false)));
}
