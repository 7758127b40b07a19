// The page's frame: navigation, the page that the address names, and what lies above all pages.

import { classes, html, render, useEffect, useErrorBoundary, useState } from "./lib/dom.js";
import { connection, lookNow } from "./lib/connection.js";
import { language, startLanguage, t } from "./lib/i18n.js";
import { declined } from "./lib/key.js";
import { href, route } from "./lib/router.js";
import { learnSelf, may, self } from "./lib/self.js";
import { useStore } from "./lib/store.js";
import { Button } from "./parts/button.js";
import { Confirmation } from "./parts/dialog.js";
import { Problem } from "./parts/field.js";
import { Icon } from "./parts/icon.js";
import { KeyDialog } from "./parts/key-dialog.js";
import { Live } from "./parts/live.js";
import { Toasts } from "./parts/toast.js";

/** The pages, in the order of the navigation. A page is loaded when it is first shown. */
const PAGES = [
  { name: "chat", icon: "chat", load: () => import("./pages/chat/index.js") },
  { name: "models", icon: "models", load: () => import("./pages/models/index.js") },
  { name: "machine", icon: "machine", scopes: ["stats", "peers"], load: () => import("./pages/machine/index.js") },
  { name: "lab", icon: "lab", load: () => import("./pages/lab/index.js") },
  { name: "keys", icon: "key", scopes: ["admin"], load: () => import("./pages/keys/index.js") },
  { name: "settings", icon: "settings", load: () => import("./pages/settings/index.js") },
];

function App() {
  useStore(language); // all words change with it
  const { page } = useStore(route);
  const known = useStore(self);
  const shown = PAGES.filter(({ scopes }) => !scopes || scopes.some((scope) => may(scope, known)));
  return html`
    <a class="skip" href="#content" onClick=${skip}>${t("app.skip")}</a>
    <${Nav} pages=${shown} current=${page} />
    <main id="content" tabindex="-1">
      <${Connection} />
      <${Shown} key=${page} page=${PAGES.find(({ name }) => name === page)} />
    </main>
    <${KeyDialog} /><${Confirmation} /><${Toasts} /><${Live} />`;
}

function skip(event) {
  event.preventDefault(); // "#content" is no page
  document.getElementById("content").focus();
}

function Nav({ pages, current }) {
  return html`<nav class="nav" aria-label=${t("app.pages")}>
    ${pages.map(({ name, icon }) => html`<a key=${name} href=${href(name)} class=${classes("nav-link", name === current && "current")}
        aria-current=${name === current ? "page" : undefined}>
      <${Icon} name=${icon} /><span>${t(`app.page.${name}`)}</span>
    </a>`)}
  </nav>`;
}

/** Says that the server is away, for which the page asks by itself, or that it needs a key. */
function Connection() {
  const { online } = useStore(connection);
  const needsKey = useStore(declined);
  return html`<div role="status">
    ${!online && html`<div class="banner"><${Icon} name="alert" /><span>${t("app.away")}</span>
      <${Button} onClick=${lookNow}>${t("app.try_now")}<//></div>`}
    ${online && needsKey && html`<div class="banner"><${Icon} name="key" /><span>${t("key.title")}</span>
      <a href=${href("settings")}>${t("app.page.settings")}</a></div>`}
  </div>`;
}

/** A page, loaded when it is needed. An error in it leaves the others usable. */
function Shown({ page }) {
  const [component, setComponent] = useState(null);
  const [failure, setFailure] = useState(null);
  const [times, setTimes] = useState(0);
  const [broken, repair] = useErrorBoundary((error) => console.error(error));
  useEffect(() => {
    let isCurrent = true;
    page?.load().then(
      (module) => isCurrent && setComponent({ view: module.default }),
      (error) => isCurrent && setFailure(error),
    );
    return () => { isCurrent = false; };
  }, [page, times]);
  const again = () => {
    setFailure(null);
    repair();
    // A module that could not be loaded is not asked for again by the browser.
    if (failure) location.reload();
    else setTimes(times + 1);
  };
  if (!page) return html`<div class="page"><h1>${t("app.no_page")}</h1><a href=${href("chat")}>${t("app.page.chat")}</a></div>`;
  if (failure || broken) {
    return html`<div class="page"><${Problem} error=${t("app.page_failed", { reason: (failure ?? broken).message })}>
      <${Button} icon="retry" onClick=${again}>${t("app.again")}<//>
    <//></div>`;
  }
  return component ? html`<${component.view} />` : html`<div class="page loading" aria-busy="true"><span class="spinner"></span></div>`;
}

// Beside a place for files, a file that is dropped would replace the page.
for (const name of ["dragover", "drop"]) {
  addEventListener(name, (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
}

/** Without words there is no page: while the server is starting again, they are asked for again. */
async function untilSpoken() {
  for (;;) {
    try {
      return await startLanguage();
    } catch {
      await new Promise((resolve) => { setTimeout(resolve, 1000); });
    }
  }
}

await untilSpoken();
learnSelf();
render(html`<${App} />`, document.getElementById("app"));
