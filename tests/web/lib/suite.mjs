// What every test file needs: one browser, one server, and contexts that are checked at the end.
import { after, before } from "node:test";
import { openContext, startBrowser } from "./browser.mjs";
import { startServer } from "./servers.mjs";

export const ROUTES = ["/chat", "/models", "/machine", "/keys", "/lab", "/settings"];

/** Browser and server of a test file: `it.browser` and `it.server` within its tests. */
export function suite(options = {}) {
  const it = {};
  before(async () => {
    [it.browser, it.server] = await Promise.all([startBrowser(), startServer(options)]);
  });
  after(async () => {
    await it.browser?.close();
    await it.server?.end();
  });
  /** Run a function in a new context, then check what its pages did. */
  it.visit = async (run, contextOptions = {}) => {
    const context = await openContext(it.browser, it.server, contextOptions);
    try {
      await run(context);
      context.watch.check();
    } finally {
      await context.close();
    }
  };
  return it;
}
