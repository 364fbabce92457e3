// Clicks through the page as a reader would and leaves what it saw in the document.
const seen = { errors: [] };
addEventListener("error", (event) => seen.errors.push(String(event.message)));
addEventListener("load", () => {
  try { visit(); } catch (error) { seen.errors.push(String(error.stack || error)); }
  const box = document.createElement("pre");
  box.id = "seen";
  box.textContent = JSON.stringify(seen);
  document.body.append(box);
});
function visit() {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const legend = () => all("#time-charts .legend span").map((s) => s.textContent);
  seen.ready = document.documentElement.dataset.ready;
  seen.rows = all("#outcomes tbody tr").length;
  seen.bars = all("#fates .part").length;
  seen.squares = all("#heat .square").length;
  seen.charts = all("#time-charts svg polygon").length;
  seen.dots = all("#app-chart circle").length;
  seen.causes = all("#causes .cause").length;
  seen.kills = all("#kill-list .cause").length;
  seen.limits = all("#limit-table tbody tr").length;
  seen.limitBars = all("#limit-chart rect[fill^=var]").length;
  seen.meters = all("#causes .meter").length;
  seen.recordings = all("#recordings tbody tr").length;
  seen.lines = all("#cpu-chart polyline").length;
  seen.fidelity = all("#fidelity tbody tr").length;
  seen.upgrade = all("#upgrade-table tbody tr").length;
  seen.hiddenLinks = all("nav a").filter((a) => a.hidden).length;
  seen.intervals = all("#intervals tbody tr").length;
  seen.texts = [];
  for (const square of all("#heat .square")) {
    square.click();
    seen.texts.push(document.querySelector("#cell h3").textContent);
  }
  seen.replicas = all("#cell tbody tr").length;
  for (const details of all("details")) details.open = true;
  seen.byWorkload = legend();
  seen.heat = all("#heat-by button").map((button) => {
    button.click();
    return all("#heat .square").map((square) => getComputedStyle(square).backgroundColor);
  });
  for (const button of all(".segmented button")) button.click();
  seen.byClass = legend();
  seen.theme = [];
  for (let i = 0; i < 2; i += 1) {
    document.getElementById("theme").click();
    seen.theme.push(document.documentElement.dataset.theme);
  }
  seen.wide = document.documentElement.scrollWidth > innerWidth;
  seen.network = performance.getEntriesByType("resource").length;
}
