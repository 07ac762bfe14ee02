// Light, dark, or as the system has it; remembered in this browser.

const KEY = "lance.theme";
const WORDS = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
const SAID = { auto: "as the system has it", light: "light", dark: "dark" };
const NEXT = { auto: "light", light: "dark", dark: "auto" };

function apply(theme, button) {
  if (theme === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", theme);
  button.textContent = WORDS[theme];
  button.setAttribute("aria-label", `Theme: ${SAID[theme]}`);
}

export function startTheme(button) {
  const kept = localStorage.getItem(KEY);
  let theme = Object.hasOwn(WORDS, kept ?? "") ? kept : "auto";
  apply(theme, button);
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    localStorage.setItem(KEY, theme);
    apply(theme, button);
  });
}
