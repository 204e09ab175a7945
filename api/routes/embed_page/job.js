// One job, read with a token that opens nothing else. It asks again while the job is not over.
const ASK_EVERY_MS = 3000;
const OVER = ["succeeded", "failed", "cancelled"];
const WORDS = { validating_files: "Checking data", queued: "Queued", running: "Running", paused: "Paused",
  succeeded: "Succeeded", failed: "Failed", cancelled: "Cancelled" };
const id = decodeURIComponent(location.pathname.split("/").pop());
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const at = (name) => document.getElementById(name);
const path = `../../v1/fine_tuning/jobs/${encodeURIComponent(id)}`;

async function ask(what) {
  const answer = await fetch(what, { headers: { Authorization: `Bearer ${token}` } });
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error.message), { isFinal: answer.status < 500 && answer.status !== 429 });
  return body;
}

// All metrics, oldest first; what was read once is not asked for again.
const losses = { train: new Map(), valid: new Map() };
const seen = new Set();
async function readMetrics() {
  let after = "";
  for (;;) {
    const page = await ask(`${path}/events?limit=1000${after}`);
    let isKnown = false;
    for (const event of page.data) {
      isKnown ||= seen.has(event.id);
      seen.add(event.id);
      if (event.type !== "metrics") continue;
      if (event.data.train_loss != null) losses.train.set(event.data.step, event.data.train_loss);
      if (event.data.valid_loss != null) losses.valid.set(event.data.step, event.data.valid_loss);
    }
    if (!page.has_more || isKnown) return;
    after = `&after=${encodeURIComponent(page.data.at(-1).id)}`;
  }
}

function draw() {
  const lines = Object.entries(losses).map(([name, points]) => [name, [...points].sort((a, b) => a[0] - b[0])]);
  const all = lines.flatMap(([, points]) => points);
  if (all.length < 2) return;
  const [low, high] = [0, 1].map((axis) => all.reduce(
    ([least, most], point) => [Math.min(least, point[axis]), Math.max(most, point[axis])], [Infinity, -Infinity]));
  const across = (step) => 10 + 580 * (step - low[0]) / (low[1] - low[0] || 1);
  const down = (loss) => 190 - 180 * (loss - high[0]) / (high[1] - high[0] || 1);
  at("chart").replaceChildren(...lines.map(([name, points]) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("class", name);
    line.setAttribute("points", points.map(([step, loss]) => `${across(step).toFixed(1)},${down(loss).toFixed(1)}`).join(" "));
    return line;
  }));
  at("losses").textContent = lines.filter(([, points]) => points.length).map(([name, points]) =>
    `${name === "train" ? "Training" : "Validation"} loss ${points.at(-1)[1].toFixed(3)}`).join(" · ");
}

function show(job) {
  const { step, total_steps: total } = job.attune.progress;
  at("name").textContent = job.user_provided_suffix || job.id;
  at("state").textContent = WORDS[job.status] || job.status;
  at("state").className = job.status;
  at("where").textContent = `${job.model}${total ? ` · step ${step} of ${total}` : ""}`;
  at("progress").max = total || 1;
  at("progress").value = step;
  if (job.error) problem(job.error.message);
}

function problem(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

async function follow() {
  try {
    if (!token) throw Object.assign(new Error("This address lacks its token: #token=… belongs behind it."), { isFinal: true });
    const job = await ask(path);
    await readMetrics();
    problem("");
    show(job);
    draw();
    if (!OVER.includes(job.status)) setTimeout(follow, ASK_EVERY_MS);
  } catch (error) {
    problem(error.isFinal ? error.message : "The service cannot be reached. It is asked again.");
    if (!error.isFinal) setTimeout(follow, ASK_EVERY_MS);
  }
  document.querySelector("main").removeAttribute("aria-busy");
}
follow();
