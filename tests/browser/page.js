// The operator's page in Chromium: log in, filter, change, preview a prune, run it, see an event; at two widths, and without
// script. Run it with `tests/browser/run`.
//
// With PICTURES=DIR it waits for a minute, so that there is something to plot, and writes pictures of generated data.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [program, gateway] = process.argv.slice(2);
const pictures = process.env.PICTURES;
const directory = mkdtempSync(join(tmpdir(), "cloakroom-browser-"));
const db = join(directory, "sessions.db");
const running = [];

const start = (path, args) => {
  const child = spawn(path, args, { stdio: ["ignore", "pipe", "inherit"] });
  running.push(child);
  return child;
};

// Four hundred sessions of the last half year, with names of no people.
const day = 86_400_000;
const now = Date.now();
const words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "iris", "juniper"];
const sessions = {};
for (let n = 0; n < 400; n++) {
  const platform = ["discord", "telegram", "slack", "matrix"][n % 4];
  const key = `agent:main:${platform}:${n % 3 ? "group" : "dm"}:${1000 + n}`;
  const updated = now - ((n * n) / 160_000) * 180 * day - 60_000;
  sessions[key] = {
    session_key: key,
    session_id: `20260101_000000_${n.toString(16).padStart(8, "0")}`,
    created_at: new Date(updated - day).toISOString(),
    updated_at: new Date(updated).toISOString(),
    display_name: `${words[n % 10]} ${words[(n * 7) % 10]}`,
    platform,
    chat_type: n % 3 ? "group" : "dm",
    suspended: n % 57 === 56,
    total_tokens: (n * 7919) % 90_000,
  };
}
// One whose names are as long as anybody can make them.
const endless = "w".repeat(120);
const longest = `agent:main:${"p".repeat(60)}:${"t".repeat(60)}:${endless}`;
sessions[longest] = {
  ...Object.values(sessions)[0],
  session_key: longest,
  session_id: "20260101_000000_ffffffff",
  updated_at: new Date(now - 1000).toISOString(),
  display_name: `${endless} longest`,
  platform: "p".repeat(60),
  chat_type: "t".repeat(60),
  [`extra_${endless}`]: "x",
};
const file = join(directory, "sessions.json");
writeFileSync(file, JSON.stringify(sessions));

let browser;
try {
  const [code] = await once(start(program, ["migrate", file, "--db", db]), "exit");
  assert.equal(code, 0, "migrate");
  // It is ended at the end.
  const gate = start(gateway, [db, "600"]);
  await once(gate.stdout, "data");
  if (pictures) await new Promise((resolve) => setTimeout(resolve, 75_000));
  const web = start(program, ["web", "--db", db]);
  const [line] = await once(web.stdout, "data");
  const url = String(line).trim();

  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-background-networking"],
  });
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 } });
  const page = await context.newPage();
  const complaints = [];
  const listen = (page) => {
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("response", (answer) => answer.status() >= 400 && complaints.push(`${answer.status()} ${answer.url()}`));
    page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  };
  listen(page);
  const shot = async (name) => pictures && page.screenshot({ path: join(pictures, `${name}.png`) });
  const fits = async (what) => {
    const [inner, all] = await page.evaluate(() => [window.innerWidth, document.documentElement.scrollWidth]);
    assert.ok(all <= inner, `${what} is ${all} wide in a window of ${inner}`);
  };

  await page.goto(url);
  await page.waitForURL((at) => at.pathname === "/");
  assert.equal(await page.locator("h1").textContent(), "Overview");
  assert.ok(!page.url().includes("token"), "the token is gone from the address");
  assert.ok((await page.locator("svg polyline").count()) >= 3);
  await shot("overview");

  // By the keyboard alone: the first stop skips to the content.
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");

  await page.getByRole("link", { name: "Sessions" }).click();
  await page.getByLabel("Search").fill("amber");
  await page.getByRole("button", { name: "Filter" }).click();
  assert.ok(page.url().includes("q=amber"), "filters are in the address");
  // A row has its buttons, and the list comes back as it was.
  await page.getByRole("row").nth(1).getByRole("button", { name: "Suspend" }).click();
  await page.getByRole("row").nth(1).getByRole("button", { name: "Unsuspend" }).click();
  await page.getByRole("row").nth(1).getByRole("button", { name: "Suspend" }).waitFor();
  assert.ok(page.url().includes("q=amber"), "the filter is there still");
  // The gateway has pruned what was idle for more than 90 days.
  const found = await page.locator("table.list tbody tr").count();
  assert.ok(found > 20 && found < 40, `${found} sessions`);
  await shot("sessions");

  // An event in one window of a change in another.
  const events = await context.newPage();
  listen(events);
  await events.goto(new URL("/events", page.url()).href);
  await events.getByText("Listening.").waitFor();
  await page.locator("table.list tbody tr a").first().click();
  await page.getByRole("button", { name: "Pin" }).click();
  await page.getByRole("button", { name: "Unpin" }).waitFor();
  await events.getByRole("row").filter({ hasText: "pinned" }).first().waitFor();
  assert.ok(!(await page.content()).includes("agent:main:"), "the key is hidden");
  await page.getByRole("link", { name: "Reveal" }).click();
  assert.ok((await page.content()).includes("agent:main:"), "the key is revealed");
  await events.close();

  // What happens to the session shows on its page. To remove it takes two presses.
  await page.getByRole("button", { name: "Unpin" }).click();
  await page.getByRole("button", { name: "Pin", exact: true }).waitFor();
  await page.waitForFunction(() => document.querySelector("#events"));
  const one = page.url();
  const other = await context.newPage();
  listen(other);
  await other.goto(one);
  await other.getByRole("button", { name: "Suspend", exact: true }).click();
  await page.locator("#happens").getByText("suspended").waitFor();
  await shot("session");
  await other.getByRole("button", { name: "Unsuspend" }).click();
  // By the keyboard alone, from the button above on: what cannot be undone is opened, and then pressed.
  await other.getByRole("button", { name: "Suspend", exact: true }).focus();
  const focused = () => other.evaluate(() => document.activeElement.textContent.trim());
  const tab = async (word) => {
    for (let n = 0; n < 12 && (await focused()) !== word; n++) await other.keyboard.press("Tab");
    assert.equal(await focused(), word);
    const outline = await other.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.notEqual(outline, "none", `where the focus is can be seen: ${word}`);
  };
  await tab("Remove…");
  await other.keyboard.press("Enter");
  await tab("Remove it");
  await other.keyboard.press("Space");
  await other.waitForURL((at) => at.pathname === "/sessions");
  await other.close();

  await page.goto(new URL("/prune?days=30", page.url()).href);
  const removed = await page.locator(".outcome strong").textContent();
  assert.ok(Number(removed) > 10, `${removed} would go`);
  await shot("pruning");
  const typed = page.locator("input[name=typed]");
  if (await typed.count()) await typed.fill(removed);
  await page.getByRole("button", { name: `Remove ${removed}` }).click();
  await page.getByText(`Removed ${removed}`).waitFor();

  // A telephone, in the dark.
  await page.setViewportSize({ width: 400, height: 800 });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.goto(new URL("/sessions?q=longest", page.url()).href);
  const session = await page.locator("table.list tbody tr a").first().getAttribute("href");
  assert.ok(session.startsWith("/session/"), session);
  for (const path of ["/", "/sessions", `/sessions?q=${endless}`, session, `${session}?reveal=1`, `/bulk?q=${endless}`, "/prune", "/prune?days=1", "/events"]) {
    await page.goto(new URL(path, page.url()).href);
    if (path.startsWith(session)) assert.ok((await page.content()).includes(`extra_${endless}`), "the long extra is shown");
    await fits(path);
    if (path === "/") await shot("overview-narrow");
  }

  // Without script all is there but the live parts. The context has the cookie.
  const plain = await browser.newContext({ javaScriptEnabled: false, storageState: await context.storageState() });
  const still = await plain.newPage();
  for (const [path, text] of [["/", "Durable lag"], ["/sessions", "in the store"], ["/prune", "entries would go"], ["/events", "cloakroom tail"]]) {
    await still.goto(new URL(path, page.url()).href);
    assert.ok((await still.content()).includes(text), `${path} without script`);
  }
  assert.deepEqual(complaints, [], "the browser complains of nothing");
  console.log("the page works");
} finally {
  await browser?.close();
  for (const child of running) child.kill();
  rmSync(directory, { recursive: true, force: true });
}
