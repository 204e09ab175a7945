// The few things that a page does without asking the server: copying, the phone's menu, the theme.
document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    await navigator.clipboard.writeText(copy.parentElement.querySelector("pre").textContent);
    copy.classList.add("done");
    setTimeout(() => copy.classList.remove("done"), 1500);
  }
  const menu = event.target.closest("[data-menu]");
  if (menu) {
    const open = menu.getAttribute("aria-expanded") !== "true";
    menu.setAttribute("aria-expanded", String(open));
    document.getElementById("menu").classList.toggle("open", open);
  }
});
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-theme-choice]")) {
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `attune_theme=${event.target.value}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
    location.reload();
  }
});

// A file goes straight to the service's upload route, with the session's cookie; the page hears of begin and end.
const say = (field, name, detail) => field.dispatchEvent(new CustomEvent(name, { detail }));
async function upload(field, file) {
  say(field, "upload-began");
  const form = new FormData();
  form.append("purpose", file.name.toLowerCase().endsWith(".jsonl") ? "fine-tune" : "user_data");
  form.append("file", file);
  let answer;
  try {
    answer = await (await fetch(field.dataset.url, { method: "POST", body: form })).json();
  } catch {
    answer = { error: { message: "The upload broke off. Try it again." } };
  }
  say(field, "upload-ended", answer);
  field.value = "";
}
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-upload]") && event.target.files.length) upload(event.target, event.target.files[0]);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    const drop = event.target.closest?.(".drop");
    if (!drop) return;
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      upload(drop.querySelector("[data-upload]"), event.dataTransfer.files[0]);
    }
  });
}
