// Starts tests/lib/page_server.py for programs that are not run by pytest.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

/** Run a function while servers can be started; its arguments are none. */
export async function withServers(run) {
  const path = [`${ROOT}tests/lib`, process.env.PYTHONPATH].filter(Boolean).join(":");
  const child = spawn(process.env.PYTHON ?? "python", [`${ROOT}tests/lib/page_server.py`], {
    env: { ...process.env, PYTHONPATH: path }, stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    for await (const line of createInterface(child.stdout)) {
      process.env.OFFGRID_CONTROL = line;
      break;
    }
    return await run();
  } finally {
    child.kill("SIGINT");
    if (child.exitCode === null) await once(child, "exit");
  }
}
