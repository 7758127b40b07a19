// The settings as a command and as a program, to be copied.

import { ROOT } from "../../lib/api.js";
import { html, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { self } from "../../lib/self.js";
import { useStore } from "../../lib/store.js";
import { CopyButton } from "../../parts/copy.js";
import { Tabs } from "../../parts/tabs.js";
import { curl, python } from "./export.js";

const WRITERS = { curl, python };

export function Code({ state }) {
  const [chosen, setChosen] = useState("curl");
  const known = useStore(self);
  const text = WRITERS[chosen](state, ROOT.href, known?.needed ?? false);
  const tabs = Object.keys(WRITERS).map((id) => ({ id, label: t(`lab.code.${id}`) }));
  return html`<section class="card" aria-labelledby="lab-code">
    <h2 id="lab-code">${t("lab.export")}</h2>
    <p class="muted">${t("lab.export_help")}</p>
    <${Tabs} label=${t("lab.export")} tabs=${tabs} chosen=${chosen} onChoose=${setChosen}>
      <div class="code">
        <${CopyButton} text=${text} label=${t(`lab.copy_code.${chosen}`)} />
        <pre dir="ltr" tabindex="0"><code>${text}</code></pre>
      </div>
    <//>
  </section>`;
}
