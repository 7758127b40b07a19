// Runs before the first paint, so that the page does not flash in another colour or direction.
(() => {
  const read = (name) => {
    try {
      return JSON.parse(localStorage.getItem(`offgrid.${name}`));
    } catch {
      return null;
    }
  };
  const root = document.documentElement;
  const theme = read("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const language = read("language");
  if (typeof language === "string") {
    root.lang = language;
    if (language === "ar") root.dir = "rtl";
  }
})();
