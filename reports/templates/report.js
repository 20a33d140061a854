// Draws every figure in the page's own colours, and again when those change.
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

function draw() {
  const style = getComputedStyle(document.body);
  for (const box of document.querySelectorAll("[data-plot]")) {
    const { data, layout } = figures[box.dataset.plot];
    const font = { family: style.getPropertyValue("--sans"), size: 12, color: style.color };
    const hoverlabel = {
      ...layout.hoverlabel,
      bgcolor: style.backgroundColor,
      font: { color: style.color },
    };
    Plotly.react(box, data, { ...layout, font, hoverlabel }, { responsive: true, displayModeBar: false });
  }
}

draw();
// A box changes its width without the window doing so: when a phone settles, when fonts load.
const observer = new ResizeObserver((entries) => entries.forEach((e) => Plotly.Plots.resize(e.target)));
document.querySelectorAll("[data-plot]").forEach((box) => observer.observe(box));
dark.addEventListener("change", draw);
