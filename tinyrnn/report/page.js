"use strict";
{
  const source = document.getElementById("strip");
  const strip = document.querySelector(".strip");
  if (source && strip) {
    const data = JSON.parse(source.textContent);
    const said = document.querySelector(".pointed");
    const show = (t) => {
      for (const cell of strip.querySelectorAll("[data-t]")) {
        cell.classList.toggle("on", cell.dataset.t === String(t));
      }
      const word = document.createElement("b");
      word.textContent = data.words[t];
      const note = data.notes[t] ? ` (${data.notes[t]})` : "";
      said.replaceChildren(word, note);
      for (const [head, rows] of data.groups) {
        const numbers = rows.map(([name, values]) => `${name} ${values[t]}`).join(" · ");
        said.append(document.createElement("br"), `${head}: ${numbers}`);
      }
    };
    for (const name of ["pointerover", "focusin", "click"]) {
      strip.addEventListener(name, (event) => {
        const cell = event.target.closest("[data-t]");
        if (cell) show(Number(cell.dataset.t));
      });
    }
  }
  document.documentElement.dataset.ready = "yes";
}
