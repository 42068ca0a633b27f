// A cross-hair that reads the lines of a chart: coordinates come from the drawn paths.
const points = (path) =>
  [...path.getAttribute("d").matchAll(/[MLH]([\d.-]+)[ V]([\d.-]+)/g)].map((m) => [+m[1], +m[2]]);

const unscale = ([low, high, start, end, log], at) => {
  const share = (at - start) / (end - start);
  return log ? low * (high / low) ** share : low + share * (high - low);
};

const short = (value) => Number(value.toPrecision(4)).toLocaleString("en");

for (const figure of document.querySelectorAll("figure")) {
  const svg = figure.querySelector("svg");
  const [x, y] = [JSON.parse(svg.dataset.x), JSON.parse(svg.dataset.y)];
  const lines = [...svg.querySelectorAll(".line")].map((p) => [p.dataset.name, points(p)]);
  const cross = document.createElementNS(svg.namespaceURI, "line");
  cross.setAttribute("class", "cross");
  const tip = document.createElement("div");
  tip.className = "tip";

  svg.addEventListener("mousemove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    if (at < x[2] || at > x[3]) return;
    const read = lines.map(([name, all]) => {
      const before = all.filter(([px]) => px <= at).pop() ?? all[0];
      return `${name} ${short(unscale(y, before[1]))}`;
    });
    for (const [key, value] of Object.entries({ x1: at, x2: at, y1: y[2], y2: y[3] })) {
      cross.setAttribute(key, value);
    }
    tip.textContent = `${short(unscale(x, at))} ${svg.dataset.unit}: ${read.join(", ")}`;
    svg.append(cross);
    figure.append(tip);
    tip.style.left = `${Math.min(event.clientX - box.left + 8, box.width - tip.offsetWidth)}px`;
  });
  svg.addEventListener("mouseleave", () => [cross, tip].forEach((e) => e.remove()));
}
