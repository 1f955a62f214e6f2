// Sorting and searching of long tables. Without it a page has all the same.
"use strict";

function valueOf(item, column) {
  const row = item.rows ? item.rows[0] : item;
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent.trim();
}

function compare(one, other) {
  const numbers = [Number(one), Number(other)];
  return numbers.some(Number.isNaN) ? one.localeCompare(other, "en", { numeric: true }) : numbers[0] - numbers[1];
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  // An item is a row, or a body with all the rows of one machine.
  const bodies = [...table.tBodies];
  const items = bodies.length > 1 ? bodies : [...bodies[0].rows];
  const parent = items[0].parentNode;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const previous = head.getAttribute("aria-sort");
      // The largest number is what one looks for.
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const next = !previous ? first : previous === "ascending" ? "descending" : "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next);
      const sorted = items.map((item) => [valueOf(item, column), item]);
      const sign = next === "ascending" ? 1 : -1;
      // What is not known is last either way.
      sorted.sort(([one], [other]) => (one === "") - (other === "") || sign * compare(one, other));
      parent.append(...sorted.map(([, item]) => item));
    });
  });
}

for (const input of document.querySelectorAll("input[type=search]")) {
  const bodies = [...document.getElementById(input.dataset.table).tBodies];
  const items = bodies.length > 1 ? bodies : [...bodies[0].rows];
  input.closest("label").hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const item of items) {
      const text = item.textContent.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
    }
  });
}
