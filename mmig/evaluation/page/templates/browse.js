// Leafs through samples, all systems side by side. Texts become text nodes, never markup.
(() => {
  const samples = JSON.parse(document.getElementById("samples").textContent);
  const find = (id) => document.getElementById(id);
  const types = [...new Set(samples.map((sample) => sample.edit_type))];
  let shown = samples;
  let place = 0;

  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  const sharpen = (image) => {
    const mark = () => image.classList.toggle("sharp", Math.max(image.naturalWidth, image.naturalHeight) <= 128);
    if (image.complete) mark(); else image.addEventListener("load", mark);
  };

  const figure = (uri, alt, lines) => {
    const made = element("figure");
    if (uri) {
      const image = element("img");
      image.alt = alt;
      image.src = uri;
      sharpen(image);
      made.append(image);
    } else {
      made.append(element("div", "no picture", "none"));
    }
    const caption = element("figcaption");
    for (const line of lines) caption.append(line, element("br"));
    made.append(caption);
    return made;
  };

  const ofSystem = (edit, key) => {
    const lines = [element("strong", edit.name)];
    if (edit.cause) lines.push(element("span", edit.cause, "tag"));
    for (const value of edit.values) lines.push(`${value.name} ${value.value}`);
    if (edit.text) lines.push(`"${edit.text}"`);
    return figure(edit.image, `${key} edited by ${edit.name}`, lines);
  };

  const show = () => {
    const sample = shown[place];
    find("place").textContent = `${place + 1} of ${shown.length}`;
    find("asked").textContent = sample.instruction || "(no instruction)";
    find("about").textContent = [sample.key, sample.edit_type].filter(Boolean).join(" · ");
    find("pictures").replaceChildren(
      figure(sample.source, `source of ${sample.key}`, [element("strong", "source")]),
      ...sample.references.map((uri, number) =>
        figure(uri, `reference ${number + 1} of ${sample.key}`, [element("strong", `reference ${number + 1}`)])),
      ...sample.systems.map((edit) => ofSystem(edit, sample.key)),
      figure(sample.target, `target of ${sample.key}`, [element("strong", "target")]),
    );
  };

  const move = (by) => {
    place = (place + by + shown.length) % shown.length;
    show();
  };

  const select = find("types");
  select.append(new Option(`all (${samples.length})`, "all:"));
  for (const type of types) {
    const count = samples.filter((sample) => sample.edit_type === type).length;
    select.append(new Option(`${type || "none given"} (${count})`, `type:${type}`));
  }
  select.addEventListener("change", () => {
    shown = select.value === "all:" ? samples : samples.filter((sample) => `type:${sample.edit_type}` === select.value);
    place = 0;
    show();
  });
  find("previous").addEventListener("click", () => move(-1));
  find("next").addEventListener("click", () => move(1));
  document.addEventListener("keydown", (event) => {
    const busy = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey;
    if (busy || event.target.closest?.("select, input, textarea, pre, .scroll")) return; // there arrows have a meaning already
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      move(event.key === "ArrowLeft" ? -1 : 1);
      event.preventDefault();
    }
  });
  document.querySelectorAll(".card img").forEach(sharpen);
  find("browse").hidden = false;
  show();
})();
