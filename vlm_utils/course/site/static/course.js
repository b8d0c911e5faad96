// Tables wider than the page scroll inside a box of their own: the box can be reached with the
// keyboard, and a line above it says so. On paper every fold is open.
const boxes = () => {
  const found = new Set(document.querySelectorAll(".pst-scrollable-table-container"));
  for (const table of document.querySelectorAll(".bd-article table")) {
    let box = table.closest(".pst-scrollable-table-container, .scroll-box");
    if (!box) {
      box = document.createElement("div");
      table.replaceWith(box);
      box.append(table);
    }
    box.classList.add("scroll-box");
    found.add(box);
  }
  return found;
};

const mark = () => {
  for (const box of boxes()) {
    const wide = box.scrollWidth > box.clientWidth + 1;
    const note = box.previousElementSibling;
    const noted = note !== null && note.classList.contains("scrolls-note");
    box.classList.toggle("scrolls", wide);
    if (wide && !noted) {
      const line = document.createElement("p");
      line.className = "scrolls-note";
      line.textContent = "This table is wider than the page: scroll it sideways.";
      box.before(line);
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "Table that scrolls sideways");
    } else if (!wide && noted) {
      note.remove();
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  }
};

const pausing = (() => {
  let waiting = 0;
  return () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(mark); };
})();

// The theme names some controls in words that are not those on them, or not at all.
const rename = () => {
  for (const control of document.querySelectorAll(".search-button-field, summary")) {
    if (control.textContent.trim()) control.removeAttribute("aria-label");
  }
  for (const fold of document.querySelectorAll("nav summary:not([aria-label])")) {
    const entry = fold.closest("li").querySelector("a");
    fold.setAttribute("aria-label", `Pages under ${entry.textContent.trim()}`);
  }
};

addEventListener("load", () => { rename(); mark(); });
addEventListener("resize", pausing);
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
