// Tables are sorted by a click on a header. Cells carry their number in data-value, so that
// "62.63 ± 1.40" sorts by its mean; a cell without a number goes last, whichever the direction.
"use strict";

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const descending = header.ariaSort
        ? header.ariaSort === "ascending"
        : header.classList.contains("number");
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortRows(table.tBodies[0], column, descending);
    });
  });
}

function sortRows(body, column, descending) {
  const compare = (one, other) => {
    const [a, b] = [one, other].map((row) => sortKey(row.cells[column]));
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" ? a - b : a.localeCompare(b);
    return descending ? -order : order;
  };
  body.append(...[...body.rows].sort(compare));
}

function sortKey(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  return cell.classList.contains("number") ? null : cell.textContent.trim();
}

document.querySelectorAll("table.sortable").forEach(makeSortable);

// What is wider than the page says that it scrolls.
const sizes = new ResizeObserver((entries) =>
  entries.forEach(({ target }) =>
    target.classList.toggle("wider", target.scrollWidth > target.clientWidth + 1)
  )
);
document.querySelectorAll(".scroll").forEach((element) => sizes.observe(element));

// On paper nothing can be opened: everything is.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => (details.open = true));
});
addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
