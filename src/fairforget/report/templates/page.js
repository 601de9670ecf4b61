"use strict";
(() => {
  const theme = JSON.parse(document.getElementById("chart-theme").textContent);
  const options = { actions: false, renderer: "svg", ast: true, defaultStyle: false, config: theme };
  const holders = [...document.querySelectorAll("[data-chart]")];
  const drawn = holders.map((holder) => {
    const specification = JSON.parse(document.getElementById(holder.dataset.chart).textContent);
    return vegaEmbed(holder, specification, options).catch((error) => {
      holder.textContent = "This chart could not be drawn; the table below holds the same figures.";
      holder.dataset.error = String(error);
    });
  });
  Promise.all(drawn).then(() => { document.documentElement.dataset.charts = "drawn"; });

  // paper cannot be clicked: the figures behind a chart are printed, the items' texts stay closed
  const opened = [];
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details.figures:not([open])")) { details.open = true; opened.push(details); }
  });
  window.addEventListener("afterprint", () => { for (const details of opened.splice(0)) details.open = false; });
})();
