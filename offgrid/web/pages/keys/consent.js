// The question before the last key with the scope admin is taken away.

import { t } from "../../lib/i18n.js";
import { confirm } from "../../parts/dialog.js";

/**
 * Do something; if no key would be left that may change keys, do it only if the user agrees.
 * @param {(query: string) => Promise<any>} work receives what is added to the address
 * @throws {DOMException} `AbortError`, if the user does not agree
 */
export async function withConsent(work) {
  try {
    return await work("");
  } catch (error) {
    if (error.code !== "last_admin_key") throw error;
    const sure = await confirm({
      title: t("keys.last_title"), text: t("keys.last_text"), action: t("keys.last_action"), danger: true,
    });
    if (!sure) throw new DOMException("", "AbortError");
    return work("?confirm=true");
  }
}
