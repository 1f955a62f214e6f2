"use strict";
// Draws every figure of the page, and keeps the time axes of all graphs together.
const figures = JSON.parse(document.getElementById("figures").textContent);
const config = { displayModeBar: false, responsive: true };
const graphs = [];

function follow(graph, change) {
  const range = change["xaxis.range[0]"] ? [change["xaxis.range[0]"], change["xaxis.range[1]"]] : null;
  if (!range && !change["xaxis.autorange"]) return;
  const update = range ? { "xaxis.range": range } : { "xaxis.range": graph.wholeRange.slice() };
  graphs.filter((other) => other !== graph || !range).forEach((other) => {
    other.following = true;
    Plotly.relayout(other, update).then(() => { other.following = false; });
  });
}

function toggle(graph, item, number) {
  const off = item.classList.toggle("off");
  Plotly.restyle(graph, { visible: off ? "legendonly" : true }, [number]);
}

const drawn = Object.entries(figures).map(([id, figure]) => {
  const graph = document.getElementById(id);
  return Plotly.newPlot(graph, figure.data, figure.layout, config).then(() => {
    if (graph.closest(".stat")) return;
    graph.wholeRange = figure.layout.xaxis.range.slice();
    graphs.push(graph);
    graph.on("plotly_relayout", (change) => { if (!graph.following) follow(graph, change); });
    graph.parentElement.querySelectorAll(".legend li").forEach((item, number) => {
      item.addEventListener("click", () => toggle(graph, item, number));
    });
  });
});
Promise.all(drawn).then(() => { document.body.dataset.drawn = drawn.length; });
