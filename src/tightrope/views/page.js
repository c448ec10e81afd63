// Draws every figure of the page, in light or dark, and draws again when the reader switches.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const stored = (name) => document.getElementById(name).textContent;
  const twins = JSON.parse(stored("dark-colors"));
  const twin = (color) => (twins[color.slice(0, 7)] ?? color.slice(0, 7)) + color.slice(7);

  function read(name) {
    return JSON.parse(stored(name), (key, value) =>
      dark.matches && typeof value === "string" && /color$/.test(key) ? twin(value) : value);
  }

  // The legend wraps as it must; its rows go below a plot that keeps its own height.
  async function makeRoom(holder, { height, margin }) {
    const legend = holder.querySelector(".legend");
    const rows = legend ? Math.ceil(legend.getBoundingClientRect().height) : 0;
    if (rows === holder.rows) return;
    holder.rows = rows;
    holder.style.height = `${height + rows}px`;
    await Plotly.relayout(holder, { "margin.b": margin.b + rows });
    await Plotly.Plots.resize(holder);
  }

  async function draw(holder) {
    const { data, layout } = read(holder.dataset.figure);
    const room = { height: layout.height, margin: { ...layout.margin } };
    delete layout.height; // so that the plot follows its holder
    layout.legend.maxheight = 4000;
    if (isTouch) layout.dragmode = false; // a finger scrolls the page
    const isNew = holder.rows === undefined;
    holder.rows = 0;
    holder.style.height = `${room.height}px`;
    await Plotly.react(holder, data, layout, {
      responsive: true,
      displayModeBar: data.length ? "hover" : false,
      displaylogo: false,
      showSendToCloud: false, // a run leaves the reader's machine by the reader's own hand only
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
    });
    if (isNew) holder.on("plotly_afterplot", () => makeRoom(holder, room));
    await makeRoom(holder, room);
  }

  const drawAll = () => document.querySelectorAll("[data-figure]").forEach((holder) => draw(holder));
  dark.addEventListener("change", drawAll);
  drawAll();
})();
