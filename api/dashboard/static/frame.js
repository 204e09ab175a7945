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
